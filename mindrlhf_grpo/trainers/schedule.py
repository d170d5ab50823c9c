"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math

from ..config.run import ENDING, TrainConfig

TIMESCALE = 10_000  # of inverse_sqrt without warm-up, as in transformers


def learning_rate(train: TrainConfig, step: int) -> float:
    """Learning rate of a step (1-based): linear warm-up to the peak, then by ``train.schedule``.

    After warm-up the rates are those that transformers' ``get_scheduler`` gives for the step before it: ``constant``,
    ``linear`` and ``cosine`` to ``min_learning_rate``, ``inverse_sqrt``. In warm-up the first step has 1/W of the
    peak, not 0. A schedule that is a mapping gives the rate from each of its steps on; before the first it is the peak.
    """
    warmup, peak = warmup_steps(train), train.learning_rate
    if step <= warmup:
        return peak * step / warmup
    if isinstance(train.schedule, dict):
        started = [first for first in train.schedule if first <= step]
        return train.schedule[max(started)] if started else peak
    if train.schedule == "inverse_sqrt":
        timescale = warmup or TIMESCALE
        return peak / math.sqrt((step - 1 - warmup + timescale) / timescale)
    progress = (step - warmup - 1) / max(1, train.steps - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    lowest = train.min_learning_rate if train.schedule in ENDING else 0.0
    return lowest + (peak - lowest) * factor[train.schedule]


def warmup_steps(train: TrainConfig) -> int:
    """Steps of warm-up; a share of the run is rounded up, as in transformers."""
    given = train.warmup_steps
    return math.ceil(given * train.steps) if isinstance(given, float) else given
