"""RLOO: each completion against the mean of the others of its group."""

from __future__ import annotations

import numpy as np

from ...advantages import Table, centre, check_shapes, unscored_to_zero, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def rloo(values: FloatArray, weights: FloatArray, groups: IntArray) -> Table:
    """R - mean of the other completions of the group = n / (n - 1) (R - mean). ``[N, K]``

    REINFORCE leave-one-out, https://arxiv.org/abs/2402.14740. Arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    centred, count = centre(weighted_total(values, weights), groups)
    return unscored_to_zero(centred * count / np.maximum(count - 1, 1))


ALGORITHM = Algorithm(
    name="rloo",
    estimator=rloo,
    formula="R − mean of the others of the group",
    source="[RLOO](https://arxiv.org/abs/2402.14740)",
    peers="trl, verl, openrlhf `rloo`",
)
