"""pass@k: only the best completion of a group is reinforced, by its lead over the second."""

from __future__ import annotations

import numpy as np

from ...advantages import Table, check_shapes, group_z_score, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def pass_k(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R1 - R2) / (std + eps) for the best completion of a group, R2 the second best reward; 0 for the rest. ``[N, K]``

    The pass@k form of verl (``grpo_passk``) after https://arxiv.org/abs/2503.19595. Arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    total = weighted_total(values, weights)
    z_scores = group_z_score(total, groups, eps=eps, ddof=ddof)
    result = np.zeros_like(z_scores)
    for group in np.unique(groups):
        for column in range(total.shape[1]):
            rows = np.flatnonzero((groups == group) & ~np.isnan(total[:, column]))
            if len(rows) > 1:
                second, best = rows[np.argsort(total[rows, column], kind="stable")[-2:]]
                result[best, column] = z_scores[best, column] - z_scores[second, column]
    return result


ALGORITHM = Algorithm(
    name="pass_k",
    estimator=pass_k,
    formula="best of the group: (R1 − R2) / (std_g + eps); the rest 0",
    source="verl, after [pass@k](https://arxiv.org/abs/2503.19595)",
    peers="verl `grpo_passk`",
)
