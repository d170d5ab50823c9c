"""What a loss needs to know of the whole batch before an update: sorts and means over all rows of all ranks.

A loss sees one micro-batch. What depends on the others is computed here, on the host, from log-probs before the
update, and becomes a constant number of each row. Legend: N rows of this rank, n pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..batches.offline import Denominators, build_offline_batch
from ..data.examples import Example
from ..types import Batch, FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """A batch before it is learned from.

    Attributes:
        examples: of all ranks.
        share: the places of this rank's examples in them.
        batch: this rank's rows, with ``ref_logps`` where there is a reference.
        logps, ref_logps: log-probs ``[N, T]`` of rows of this rank, by the policy and by the reference.
        gather: every rank's item, in rank order.
    """

    examples: Sequence[Example]
    share: range
    batch: Batch
    logps: Callable[[Batch], FloatArray]
    ref_logps: Callable[[Batch], FloatArray]
    gather: Callable[[Any], list[Any]]

    def everywhere(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rows of all ranks, in order, from those of this rank."""
        return np.concatenate([np.asarray(part, np.float64) for part in self.gather(numbers)])


Preparation: TypeAlias = Callable[[BatchContext], dict[str, NDArray[np.float64]]]
"""Numbers of this rank's rows ``[N]``, by the name of the tensor. Every rank calls it."""


def totals(logps: FloatArray | None, mask: FloatArray) -> NDArray[np.float64]:
    """Sum of log-probs over the trained tokens of each row ``[N]``; 0 without log-probs."""
    if logps is None:
        return np.zeros(len(mask))
    inside = np.where(mask > 0, logps, 0.0).astype(np.float64)
    return np.asarray(inside.sum(axis=1), dtype=np.float64)


def ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Place of each value in ascending order."""
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(len(values))
    return places


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
    own = totals(before.logps(before.batch), mask) - totals(before.batch.ref_logps, mask)
    ratios = before.everywhere(own)
    chosen, rejected = ratios[0::2], ratios[1::2]
    both = np.stack([np.sort(rejected)[ranks(chosen)], np.sort(chosen)[ranks(rejected)]], axis=1)
    return {"partner": both[before.share.start : before.share.stop].reshape(-1)}


def mean_ratio(before: BatchContext) -> dict[str, NDArray[np.float64]]:
    """BCO: mean log-ratio of all rows, chosen and rejected; the same for every row."""
    mask = before.batch.mask
    own = totals(before.logps(before.batch), mask) - totals(before.batch.ref_logps, mask)
    return {"baseline": np.full(len(before.batch), float(before.everywhere(own).mean()))}


def baseline(before: BatchContext) -> dict[str, NDArray[np.float64]]:
    """KTO's z: mean log-ratio of completions under the prompt of the next row, at least 0; the same for every row.

    A batch of one row (the rest of a held-out set) has no other prompt: z is 0.
    """
    examples = before.examples
    if len(examples) == 1:
        return {"baseline": np.zeros(len(before.batch))}
    wrong = [
        Example(uid=one.uid, row=one.row, prompt=one.prompt, completions=examples[place - 1].completions)
        for place, one in enumerate(examples)
    ]
    share = wrong[before.share.start : before.share.stop]
    batch = build_offline_batch(share, Denominators.of(wrong))
    own = totals(before.logps(batch), batch.mask) - totals(before.ref_logps(batch), batch.mask)
    mean = float(before.everywhere(own).mean())
    return {"baseline": np.full(len(before.batch), max(0.0, mean))}
