"""What scored completions of held-out prompts say of a model: its rewards and, where they are right or wrong, its accuracy.

Accuracy has one meaning, in training and in ``evaluate``: the share of completions that the first reward component
gives 1, and it exists only where every value of that component is 0 or 1. Any other reward is a reward: a mean, without
percent. Legend: N completions, P problems with S completions each, F components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..rewards import RewardTable
from .intervals import wilson_interval
from .means import mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Accuracy over problems, each of which has a score for all its completions.

    Attributes:
        value: mean over the problems of the share of their completions that are right (avg@S; with one each, accuracy).
        low, high: its 95% interval (Wilson, over problems).
        passes: k -> probability that at least one of k completions of a problem is right.
    """

    value: float
    low: float
    high: float
    passes: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """The scores of held-out completions.

    Attributes:
        graded: whether the first component has a value that is neither 0 nor 1.
        accuracy: None where values are graded, or nothing is scored.
        reward: mean of the weighted sum.
        components: component -> mean before weighting.
        problems, unscored: problems with a first component for each completion, and the others.
    """

    graded: bool
    accuracy: Accuracy | None
    reward: float
    components: dict[str, float]
    problems: int
    unscored: int


def held_out_scores(table: RewardTable, samples: int) -> HeldOutScores:
    """Summarise a table with S consecutive rows for each problem; without a finite value a mean is 0."""
    values = completion_means(table.values)
    first = values[:, 0].reshape(-1, samples)
    scored = first[~np.isnan(first).any(axis=1)]
    known = first[~np.isnan(first)]
    graded = bool(((known != 0) & (known != 1)).any())
    components = {name: mean(table.values[:, index]) for index, name in enumerate(table.names)}
    return HeldOutScores(
        graded=graded,
        accuracy=None if graded or not len(scored) else accuracy(scored == 1),
        reward=mean(table.total()),
        components=components,
        problems=len(scored),
        unscored=len(first) - len(scored),
    )


def accuracy(right: NDArray[np.bool_]) -> Accuracy:
    """Accuracy from which completions are right ``[P, S]``, of at least one problem.

    The interval counts problems, not completions, which are not independent: it is too wide rather than too narrow.
    """
    problems, samples = right.shape
    value = float(right.mean(axis=1).mean())
    low, high = wilson_interval(min(float(problems), value * problems), problems)
    passes = {k: float(np.mean([pass_at_k(int(n), samples, k) for n in right.sum(axis=1)])) for k in {1, samples}}
    return Accuracy(value=value, low=low, high=high, passes=passes)


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Probability that at least one of ``k`` completions is right: the unbiased estimate from ``samples`` completions.

    Chen et al. 2021, https://arxiv.org/abs/2107.03374, eq. 1: 1 - C(samples - right, k) / C(samples, k).
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right in {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def completion_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the applicable segments, ``[N, F, K]`` -> ``[N, F]``; NaN where none applies."""
    present = ~np.isnan(values)
    count = present.sum(axis=2)
    total = np.where(present, values, 0.0).sum(axis=2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
