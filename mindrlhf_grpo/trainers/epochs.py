"""A run's length in epochs, as steps."""

from __future__ import annotations

import math
from typing import TypeVar

from ..config.offline import OfflineConfig
from ..config.run import RunConfig

C = TypeVar("C", RunConfig, OfflineConfig)


def in_steps(config: C, rows: int) -> C:
    """The configuration with ``train.epochs`` as ``train.steps``; without epochs as it is.

    The last step is filled from the next epoch. Rows that are left out (too long, bad) count as drawn, and prompts that
    replace dead groups (``algorithm.dead_groups: resample``) come on top: the metric ``epoch`` says where the run is.

    Args:
        rows: of the training data.
    """
    epochs = config.train.epochs
    if epochs is None:
        return config
    steps = max(1, math.ceil(round(epochs * rows / config.train.prompts_per_step, 6)))
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
