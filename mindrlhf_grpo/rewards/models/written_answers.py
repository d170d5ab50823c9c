"""Answers that somebody has written, as rollouts: what scores text then scores them like a policy's completions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...config.run import DataConfig, ModelConfig, RewardConfig, RunConfig
from ...types import FinishReason, Prompt, Rollout, RolloutGroup

UNUSED = "none"  # scoring needs neither data nor rewards, which a run configuration must name


def bare_config(model: ModelConfig, backend: str) -> RunConfig:
    """Build a configuration to load single models with a backend; it names neither data nor rewards."""
    return RunConfig(
        backend=backend, model=model, data=DataConfig(source=UNUSED), rewards=[RewardConfig(function=UNUSED)]
    )


def written_group(uid: int, question: str, answers: Sequence[str]) -> RolloutGroup:
    """Build a group from written answers, for code that reads their text and not their ids."""
    no_ids, no_logps = np.zeros(1, np.int64), np.zeros(1, np.float32)
    rollouts = tuple(
        Rollout(sample=number, ids=no_ids, logps=no_logps, finish=FinishReason.STOP, text=answer)
        for number, answer in enumerate(answers)
    )
    return RolloutGroup(prompt=Prompt(uid=uid, ids=no_ids, text=question, row=uid), rollouts=rollouts)
