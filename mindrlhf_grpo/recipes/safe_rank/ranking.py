"""Metrics of ranked lists: DCG, NDCG, recall. Legend: k a rank from 1; hits are 1 or 0 for each rank of a list."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2


def discount(place: int) -> float:
    """Return 1 / log2(k + 1): 1, 0.63093, 0.5, 0.43068, 0.38685, ..."""
    return 1.0 / log2(place + 1)


def dcg(gains: Sequence[float]) -> float:
    """Return the discounted sum of a list's gains."""
    return sum(gain * discount(place) for place, gain in enumerate(gains, 1))


def recall_at(hits: Sequence[int], relevant: int, cutoff: int) -> float:
    """Return the hits among the first ``cutoff`` ranks, as a share of the ``relevant`` items (at least 1)."""
    return sum(hits[:cutoff]) / relevant


def ndcg_at(hits: Sequence[int], relevant: int, cutoff: int) -> float:
    """Return the DCG of the first ``cutoff`` ranks, as a share of that of the best list."""
    return dcg(hits[:cutoff]) / dcg([1.0] * min(relevant, cutoff))


def flags_at(flags: Sequence[Sequence[int]], cutoff: int) -> dict[str, float]:
    """Summarise flagged items (1, else 0) among the first ``cutoff`` of each list.

    ``ratio``: share of all items; ``count``: per list; ``dcg``: discounted sum per list; ``lists``: share of lists with any.
    """
    first = [items[:cutoff] for items in flags]
    listed, counts = sum(len(items) for items in first), [sum(items) for items in first]
    return {
        "ratio": sum(counts) / max(1, listed),
        "count": mean(counts),
        "dcg": mean([dcg(items) for items in first]),
        "lists": mean([count > 0 for count in counts]),
    }


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 without values."""
    return float(sum(values) / len(values)) if values else 0.0
