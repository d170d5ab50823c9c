"""Held-out accuracy: greedy completions, scored by the run's own rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backend import Comm, RolloutEngine
from ..config.run import DataConfig, RunConfig
from ..data.stream import PromptStream, shard
from ..metrics.metric_functions import MetricFunctions
from ..parallel.residency import Residency
from ..rewards import Rewards, RewardTable
from ..tokenizers.tokenizer import Tokenizer
from ..types import Prompt, Sampling
from .step_metrics import mean


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Prompts that are never trained on. The first reward component counts as accuracy."""

    prompts: list[Prompt]
    sampling: Sampling
    stops: bool = True  # where a reward fails for every problem

    def evaluate(
        self,
        engine: RolloutEngine,
        rewards: Rewards,
        comm: Comm,
        memory: Residency,
        metric_functions: MetricFunctions,
        *,
        step: int,
    ) -> dict[str, float]:
        """``eval/accuracy``, the mean of each component over all held-out prompts, and user-defined metrics.

        Equal on every rank.
        """
        share = shard(self.prompts, comm.rank, comm.world_size)
        memory.place("eval")
        groups = engine.generate(share, self.sampling, group_size=1)
        memory.place("reward")
        local_table = rewards.score(groups)
        table = RewardTable.concat(comm.gather_objects(local_table))
        if self.stops:
            table.refuse_failed("held-out completions")
        lengths = comm.gather_objects([len(rollout.ids) for group in groups for rollout in group.rollouts])
        metrics = {
            "eval/accuracy": mean(table.values[:, 0]),
            "eval/problems": float(len(self.prompts)),
            "eval/length": mean(np.concatenate([np.asarray(part, np.int64) for part in lengths])),
            **{f"eval/{name}/mean": mean(table.values[:, index]) for index, name in enumerate(table.names)},
        }
        return metrics | metric_functions.compute(groups, local_table, metrics, split="eval", step=step)


def load_held_out(config: RunConfig, tokenizer: Tokenizer) -> HeldOut | None:
    """The held-out prompts, tokenised like the training data, to be completed greedily; None without ``eval.source``."""
    if config.eval.source is None:
        return None
    data: DataConfig = config.data.model_copy(update={"source": config.eval.source})
    rollout = config.rollout
    return HeldOut(
        prompts=PromptStream(data, tokenizer, seed=config.seed).all(),
        sampling=Sampling(max_tokens=rollout.max_tokens, temperature=0.0, stop=tuple(rollout.stop), seed=config.seed),
        stops=config.train.on_alarm == "stop",
    )
