"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math

from ..config.run import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """Learning rate of a step (1-based): linear warm-up to the peak, then constant, or decaying to 0 at the last step.

    A schedule that is a mapping gives the rate from each of its steps on; before the first it is the peak.
    """
    if step <= train.warmup_steps:
        return train.learning_rate * step / train.warmup_steps
    if isinstance(train.schedule, dict):
        started = [first for first in train.schedule if first <= step]
        return train.schedule[max(started)] if started else train.learning_rate
    progress = (step - train.warmup_steps - 1) / max(1, train.steps - train.warmup_steps)
    factor = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return train.learning_rate * factor[train.schedule]
