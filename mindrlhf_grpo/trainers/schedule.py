"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math

from ..config.run import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """Learning rate of a step (1-based): linear warm-up to the peak, then constant, or down to 0 at the last step.

    A schedule that is a mapping gives the rates from its steps on; before the first it is the peak.
    """
    if step <= train.warmup_steps:
        return train.learning_rate * step / train.warmup_steps
    if isinstance(train.schedule, dict):
        begun = [first for first in train.schedule if first <= step]
        return train.schedule[max(begun)] if begun else train.learning_rate
    done = (step - train.warmup_steps - 1) / max(1, train.steps - train.warmup_steps)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return train.learning_rate * factor[train.schedule]
