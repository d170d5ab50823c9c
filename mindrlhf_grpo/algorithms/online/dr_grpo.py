"""Dr. GRPO: GRPO without the division by the standard deviation and with a constant denominator."""

from __future__ import annotations

from ...advantages import Table, centre, check_shapes, unscored_to_zero, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def dr_grpo(values: FloatArray, weights: FloatArray, groups: IntArray) -> Table:
    """R - mean within each group: without the division, easy and hard prompts weigh the same. ``[N, K]``

    Dr. GRPO, https://arxiv.org/abs/2503.20783. Arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    centred, _ = centre(weighted_total(values, weights), groups)
    return unscored_to_zero(centred)


ALGORITHM = Algorithm(
    name="dr_grpo",
    estimator=dr_grpo,
    formula="R − mean_g",
    source="[Dr. GRPO](https://arxiv.org/abs/2503.20783)",
    peers="trl `scale_rewards: none`; verl `norm_adv_by_std_in_grpo: False`",
    prescribes={"aggregation": "constant"},
)
