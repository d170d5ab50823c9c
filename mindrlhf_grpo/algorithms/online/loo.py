"""NeMo RL's default: mean and standard deviation of the other completions of the group."""

from __future__ import annotations

from ...advantages import Table, check_shapes, leave_one_out_z_score, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def loo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean) / (std + eps) with mean and std of the other completions; not divided where that std is 0. ``[N, K]``

    NeMo RL's default (``use_leave_one_out_baseline``, eps 1e-6). Arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    return leave_one_out_z_score(weighted_total(values, weights), groups, eps=eps, ddof=ddof)


ALGORITHM = Algorithm(
    name="loo",
    estimator=loo,
    formula="(R − mean) / (std + eps), both of the others of the group; not divided where that std is 0",
    source="NeMo RL, `use_leave_one_out_baseline`",
    peers="NeMo RL `use_leave_one_out_baseline`: eps 1e-6",
    prescribes={"adv_eps": 1e-6},
)
