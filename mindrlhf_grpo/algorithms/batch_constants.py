"""The batch before an update, for losses that need numbers of all rows of all ranks: sorts, means, baselines.

A loss sees one micro-batch. What depends on the others is computed here, on the host, from log-probs before the
update, and becomes a constant number of each row. Legend: N rows of this rank, n pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
