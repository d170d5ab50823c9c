"""GRPO: rewards normalised by mean and standard deviation of their group, PPO's clipped loss."""

from __future__ import annotations

from ...advantages import Table, check_shapes, group_z_score, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm

FORMULA = "(R − mean_g) / (std_g + eps)"


def grpo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean) / (std + eps) within each group, for each segment by itself. Exactly 0 where all rewards are equal.

    DeepSeekMath, https://arxiv.org/abs/2402.03300.

    Args:
        values: rewards ``[N, F, K]``.
        weights: factor of each component in their sum ``[F]``.
        groups: group of each completion ``[N]``, any integers.
        eps: added to the standard deviation.
        ddof: 1 divides the squares by n - 1 (sample), 0 by n (population).

    Returns:
        ``[N, K]``.

    Raises:
        ValueError: a shape does not fit, or a reward is infinite.
    """
    check_shapes(values, weights, groups)
    return group_z_score(weighted_total(values, weights), groups, eps=eps, ddof=ddof)


ALGORITHM = Algorithm(
    name="grpo",
    estimator=grpo,
    formula=FORMULA,
    source="[DeepSeekMath](https://arxiv.org/abs/2402.03300)",
    peers="trl, verl, openrlhf `group_norm`, lightrft, mindrlhf: eps and ddof by preset",
)
