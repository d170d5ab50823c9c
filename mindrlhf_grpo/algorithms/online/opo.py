"""OPO: a baseline in which long completions weigh more."""

from __future__ import annotations

from ...advantages import Table, centre, check_shapes, unscored_to_zero, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def opo(values: FloatArray, weights: FloatArray, groups: IntArray, *, lengths: IntArray) -> Table:
    """R - mean of the group, in which a completion counts once per token. ``[N, K]``

    OPO, https://arxiv.org/abs/2505.23585: the baseline of least variance if a gradient grows with length.

    Args:
        lengths: tokens of each completion ``[N]``.

    Other arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    if lengths.shape != groups.shape:
        raise ValueError(f"opo needs the lengths [N] of {len(groups)} completions")
    centred, _ = centre(weighted_total(values, weights), groups, lengths)
    return unscored_to_zero(centred)


ALGORITHM = Algorithm(
    name="opo",
    estimator=opo,
    formula="R − Σ_g n R / Σ_g n",
    source="[OPO](https://arxiv.org/abs/2505.23585)",
    peers="verl `opo`",
)
