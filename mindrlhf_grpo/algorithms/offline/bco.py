"""BCO: a classifier of good and bad completions, its rewards shifted by their mean over the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...losses.preference import Sigmoid, log_sigmoid
from ..batch_constants import BatchContext, totals
from ..objective import Objective


def mean_ratio(before: BatchContext) -> dict[str, NDArray[np.float64]]:
    """BCO: mean log-ratio of all rows, chosen and rejected; the same for every row."""
    mask = before.batch.mask
    local = totals(before.logps(before.batch), mask) - totals(before.batch.ref_logps, mask)
    return {"baseline": np.full(len(before.batch), float(before.everywhere(local).mean()))}


@dataclass(frozen=True, slots=True, kw_only=True)
class BCOPair(Sigmoid):
    """A classifier of good and bad, rewards shifted by their mean: https://arxiv.org/abs/2404.04656.

    ``baseline`` is the mean log-ratio over the global batch (``prepare`` of its record), as in TRL; MindRLHF has a running mean.
    """

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        n = tensors["baseline"].shape[0] // 2
        shift = self.beta * tensors["baseline"][0 : 2 * n : 2, 0]
        return -log_sigmoid(xp, self.beta * chosen - shift) - log_sigmoid(xp, shift - self.beta * rejected)


OBJECTIVES = (
    Objective(
        name="bco_pair",
        loss=BCOPair,
        source="arXiv:2404.04656",
        peers="trl: bco_pair (mindrlhf: with a running mean)",
        prepare=mean_ratio,
    ),
)
