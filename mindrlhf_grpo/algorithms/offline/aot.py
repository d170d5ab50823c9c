"""AOT: log-ratios are compared with those of equal rank in the batch, not with those of the same pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...losses.preference import Sigmoid, log_sigmoid
from ..batch_constants import BatchContext, totals
from ..objective import Objective


def partners(before: BatchContext) -> dict[str, NDArray[np.float64]]:
    """AOT: the reference's log-ratio of equal rank minus the pair's own, at both rows of a pair."""
    mask = before.batch.mask
    policy = before.everywhere(totals(before.logps(before.batch), mask))
    reference = before.everywhere(totals(before.batch.ref_logps, mask))
    gap, reference_gap = policy[0::2] - policy[1::2], reference[0::2] - reference[1::2]
    partner = np.sort(reference_gap)[ranks(gap)] - reference_gap
    return {"partner": np.repeat(partner[before.share.start : before.share.stop], 2)}


def unpaired_partners(before: BatchContext) -> dict[str, NDArray[np.float64]]:
    """AOT unpaired: the rejected log-ratio of a chosen row's rank, and the other way round."""
    mask = before.batch.mask
    local = totals(before.logps(before.batch), mask) - totals(before.batch.ref_logps, mask)
    ratios = before.everywhere(local)
    chosen, rejected = ratios[0::2], ratios[1::2]
    counterparts = np.stack([np.sort(rejected)[ranks(chosen)], np.sort(chosen)[ranks(rejected)]], axis=1)
    return {"partner": counterparts[before.share.start : before.share.stop].reshape(-1)}


def ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Place of each value in ascending order."""
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(len(values))
    return places


@dataclass(frozen=True, slots=True, kw_only=True)
class AOT(Sigmoid):
    """Distributional preference: the k-th largest log pi(chosen) / pi(rejected) meets the k-th largest of the reference.

    https://arxiv.org/abs/2406.05882. The sort is over the *global* batch, so the host makes it, from the log-probs
    before the update (``prepare`` of its record): ``partner`` is what a pair is compared with, a constant.
    """

    label_smoothing: float = 0.0

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        n = tensors["partner"].shape[0] // 2
        # partner: (reference's log-ratio of equal rank) - (this pair's own), which the skeleton has subtracted
        return self.smoothed(xp, self.beta * (chosen - rejected - tensors["partner"][0 : 2 * n : 2, 0]))

    def smoothed(self, xp: Any, gap: Any) -> Any:
        """cDPO's loss of a gap."""
        return -(1.0 - self.label_smoothing) * log_sigmoid(xp, gap) - self.label_smoothing * log_sigmoid(xp, -gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class AOTUnpaired(AOT):
    """The k-th largest log-ratio of the chosen meets the k-th largest of the rejected: no pair has to be a pair.

    Each row has its counterpart's value as ``partner``, a constant. A gap then appears twice, once from either side:
    value halved, gradient whole, the sum is the sorted formula.
    """

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        n = tensors["partner"].shape[0] // 2
        partner = tensors["partner"]
        up = self.smoothed(xp, self.beta * (chosen - partner[0 : 2 * n : 2, 0]))
        down = self.smoothed(xp, self.beta * (partner[1 : 2 * n : 2, 0] - rejected))
        return up + down - 0.5 * xp.stop_gradient(up + down)


OBJECTIVES = (
    Objective(name="aot", loss=AOT, source="arXiv:2406.05882", peers="trl: aot", prepare=partners),
    Objective(
        name="aot_unpaired",
        loss=AOTUnpaired,
        source="arXiv:2406.05882",
        peers="trl: aot_unpaired; mindrlhf: aot_pair",
        prepare=unpaired_partners,
        aliases=("aot_pair",),
    ),
)
