"""Trend tests for noisy series that hold for white noise and for random walks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_CORRELATED = 0.95


def mann_kendall(values: Sequence[float]) -> float:
    """Standard score of a monotone trend: above 0 it rises. 0 for fewer than 4 values, or equal ones.

    Mann 1945, Kendall 1975, with the variance for ties; autocorrelated values count for fewer
    (Yue and Wang 2004, doi:10.1023/B:WARM.0000043140.61082.60, with the correlation of neighbours around the trend).
    """
    series = np.asarray(values, np.float64)
    count = len(series)
    if count < 4:
        return 0.0
    signs = np.sign(series[None, :] - series[:, None])
    score = float(np.triu(signs).sum())
    _, ties = np.unique(series, return_counts=True)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0 or score == 0:
        return 0.0
    correlation = min(MOST_CORRELATED, max(0.0, neighbours(series - sen_slope(series) * np.arange(count))))
    inflation = (1 + correlation) / (1 - correlation)
    return (score - math.copysign(1, score)) / math.sqrt(variance * inflation)


def drift(values: Sequence[float]) -> float:
    """Student's t of the mean step from one value to the next.

    For a random walk, which has runs but no trend, it is rarely above 2; for white noise it is near 0.
    """
    steps = np.diff(np.asarray(values, np.float64))
    if len(steps) < 3:
        return 0.0
    spread = float(steps.std(ddof=1))
    if spread == 0:
        return math.copysign(math.inf, steps[0]) if steps[0] else 0.0
    return float(steps.mean()) / spread * math.sqrt(len(steps))


def sen_slope(series: NDArray[np.float64]) -> float:
    """Median of the slopes between all pairs (Sen 1968)."""
    first, second = np.triu_indices(len(series), 1)
    return float(np.median((series[second] - series[first]) / (second - first)))


def neighbours(series: NDArray[np.float64]) -> float:
    """Correlation of each value with the next."""
    around = series - series.mean()
    total = float((around**2).sum())
    return float((around[1:] * around[:-1]).sum()) / total if total > 0 else 0.0
