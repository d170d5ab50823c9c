"""Parts of an optimizer step that both backends share: row selection, gradient clipping, reduction of metric sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..types import Batch


def trained_rows(batch: Batch) -> NDArray[np.int64]:
    """Rows that have a trained token, and coupled rows of which another row of the prompt has one."""
    trained = batch.mask.any(axis=1)
    if batch.coupled:
        trained = np.isin(batch.prompt_of, batch.prompt_of[trained])
    return np.flatnonzero(trained)


def clip_scale(norm: float, limit: float) -> float:
    """Factor that brings a gradient of this norm to at most ``limit``; a limit of 0 never clips."""
    return min(1.0, limit / (norm + 1e-6)) if limit else 1.0


def step_sums(
    ranks: Sequence[Sequence[Sequence[Mapping[str, float]]]], empty: Mapping[str, float]
) -> tuple[float, list[dict[str, float]]]:
    """Total loss of an optimizer step, and the sums of each of its batches.

    Args:
        ranks: of every rank, of every batch, the sums of its micro-batches.
        empty: what a batch without rows has.
    """
    batches = [combine(part for rank in ranks for part in rank[place]) for place in range(len(ranks[0]))]
    loss = sum(sums.pop("loss", 0.0) for sums in batches)
    return loss, [{**empty, **sums} for sums in batches]


def combine(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Metric sums of all micro-batches and ranks; ``max/`` names by maximum."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            if name.startswith("max/"):
                total[name] = max(total.get(name, -math.inf), value)
            else:
                total[name] = total.get(name, 0.0) + value
    return total
