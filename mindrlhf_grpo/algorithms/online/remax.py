"""ReMax: each completion against a greedy completion of its prompt."""

from __future__ import annotations

from ...advantages import Table, check_shapes, unscored_to_zero, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def remax(values: FloatArray, weights: FloatArray, groups: IntArray, *, baselines: FloatArray) -> Table:
    """R - reward of a greedy completion of the prompt. ``[N, K]``

    ReMax, https://arxiv.org/abs/2310.10505. A completion needs no others in its group.

    Args:
        baselines: reward of a greedy completion of the same prompt ``[N]``.

    Other arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    if baselines.shape != groups.shape:
        raise ValueError(f"remax needs the rewards of greedy completions [N] of {len(groups)} completions")
    return unscored_to_zero(weighted_total(values, weights) - baselines[:, None])


ALGORITHM = Algorithm(
    name="remax",
    estimator=remax,
    formula="R − R of a greedy completion",
    source="[ReMax](https://arxiv.org/abs/2310.10505)",
    peers="verl `remax`",
    group_size=1,
)
