"""Held-out accuracy: greedy completions, scored by the run's own rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import Comm, RolloutEngine
from ..config.run import RunConfig
from ..data.stream import shard
from ..metrics.metric_functions import MetricFunctions
from ..rewards import Rewards, RewardTable
from ..types import Prompt, Sampling
from .experience import mean


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Prompts that are never trained on. The first reward component counts as accuracy."""

    prompts: list[Prompt]
    sampling: Sampling

    @staticmethod
    def of(config: RunConfig, prompts: list[Prompt]) -> HeldOut:
        """Greedy sampling with the run's lengths and stop strings."""
        rollout = config.rollout
        sampling = Sampling(max_tokens=rollout.max_tokens, temperature=0.0, stop=tuple(rollout.stop), seed=config.seed)
        return HeldOut(prompts=prompts, sampling=sampling)

    def evaluate(
        self, engine: RolloutEngine, rewards: Rewards, comm: Comm, further: MetricFunctions, *, step: int
    ) -> dict[str, float]:
        """``eval/accuracy``, the mean of each component over all held-out prompts, and the user's own metrics.

        Equal on every rank.
        """
        share = shard(self.prompts, comm.rank, comm.world_size)
        groups = engine.generate(share, self.sampling, group_size=1)
        if rewards.uses_models:  # they are given the memory of the engine
            engine.sleep()
        own = rewards.score(groups)
        table = RewardTable.concat(comm.gather_objects(own))
        metrics = {f"eval/{name}/mean": mean(table.values[:, index]) for index, name in enumerate(table.names)}
        lengths = comm.gather_objects([len(rollout.ids) for group in groups for rollout in group.rollouts])
        figures = {
            "eval/accuracy": mean(table.values[:, 0]),
            "eval/problems": float(len(self.prompts)),
            "eval/length": mean(np.concatenate([np.asarray(part, np.int64) for part in lengths])),
            **metrics,
        }
        return figures | further.compute(groups, own, figures, split="eval", step=step)
