"""Parts of an optimizer step that both backends share.

Row selection, gradient clipping, reduction of metric sums, and the share of the weights that a step changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..types import Batch

SAMPLED = 4096  # elements of a tensor that are compared before and after a step; a smaller tensor is compared whole


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


def sample_stride(size: int) -> int:
    """Every which element of a flat tensor is compared: SAMPLED to twice as many of a large one, all of a small one."""
    return max(1, size // SAMPLED)


def estimate_changed(tensors: Iterable[tuple[int, int]]) -> tuple[float, float]:
    """Estimated number of changed elements, and number of all, from (elements, changed ones of the sample) per tensor."""
    changed = total = 0.0
    for size, of_sample in tensors:
        sampled = -(-size // sample_stride(size)) if size else 1
        changed, total = changed + size * of_sample / sampled, total + size
    return changed, total


def changed_frac(ranks: Iterable[tuple[float, float]]) -> float:
    """Share of the weights that a step changed, from the estimates of every rank; 0 without weights."""
    estimates = list(ranks)
    return sum(changed for changed, _ in estimates) / max(1.0, sum(total for _, total in estimates))
