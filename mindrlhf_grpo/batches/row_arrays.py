"""Arrays of a whole batch, filled micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..types import Batch

Floats = NDArray[np.float32]


def fill_rows(
    batch: Batch,
    micro_batches: Iterable[NDArray[np.int64]],
    compute: Callable[[Batch], Sequence[NDArray[Any]]],
    *,
    outputs: int = 1,
) -> list[Floats]:
    """Compute arrays ``[N, T]``, zero past each micro-batch's longest row.

    Args:
        micro_batches: the rows of each.
        compute: a micro-batch -> so many arrays of its rows, which may be padded in both directions.
    """
    filled = [np.zeros(batch.ids.shape, np.float32) for _ in range(outputs)]
    for rows in micro_batches:
        micro = batch.take(rows)
        count, width = micro.ids.shape
        for array, computed in zip(filled, compute(micro), strict=True):
            array[rows, :width] = computed[:count, :width]
    return filled
