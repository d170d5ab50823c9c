"""Drawing the rollouts of a step: every rank generates and scores its share of the prompts, round by round.

With ``algorithm.dead_groups: resample`` a prompt whose group is dead gives its place in the step to the next prompt of
the stream, until all places are taken or the budget of rounds is spent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..algorithms.completion_table import CompletionTable
from ..algorithms.plan import Plan
from ..backend import RolloutEngine, RowRanks
from ..config.algorithm import DeadGroupTestConfig
from ..config.run import RunConfig
from ..data.stream import PromptStream, shard
from ..environments.episodes import Environments
from ..parallel.residency import Residency
from ..rewards import Rewards, RewardTable
from ..run.clock import Clock
from ..tokenizers.tokenizer import Tokenizer
from ..types import Prompt, RolloutGroup, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnRollouts:
    """The rollouts that a step keeps, and counts of all that were drawn for them.

    Attributes:
        groups, rewards: of this rank.
        table: the completions of all ranks, rank by rank; ``rows`` of it are this rank's.
        dead: whether the group of a prompt has nothing to learn, by the prompt's place in the step.
        prompts, dead_prompts, completions, tokens: drawn over all ranks, replaced prompts included; tokens are sampled ones.
        drawn_reward: mean total reward of all completions drawn, replaced prompts included; NaN if none has a reward.
        rounds: of generation.
        sources: name of each prompt's data source, by the prompt's place in the step; empty names for one source.
    """

    groups: list[RolloutGroup]
    rewards: RewardTable
    table: CompletionTable
    rows: slice
    dead: NDArray[np.bool_]
    prompts: int
    dead_prompts: int
    completions: int
    tokens: int
    drawn_reward: float
    rounds: int
    sources: tuple[str, ...] = ()


class RolloutSource:
    """Turns the next prompts of the stream into scored rollouts.

    Attributes:
        sampling: how training completions are drawn.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        rows: RowRanks,
        stream: PromptStream,
        engine: RolloutEngine,
        rewards: Rewards,
        memory: Residency,
        environments: Environments | None = None,
    ) -> None:
        self.environments = environments
        self.config, self.plan, self.rows, self.memory = config, plan, rows, memory
        self.stream, self.engine, self.rewards = stream, engine, rewards
        self.sampling = training_sampling(config)

    def draw(self, clock: Clock) -> DrawnRollouts:
        """Draw until every place in the step is taken or the budget of rounds is spent."""
        algorithm, places = self.config.algorithm, self.config.train.prompts_per_step
        resample = algorithm.dead_groups == "resample"
        rank, ranks = self.rows.rank, self.rows.world_size
        accepted = prompts_drawn = dead_drawn = tokens = 0
        groups: list[RolloutGroup] = []
        rounds: list[list[CompletionTable]] = []
        dead_accepted: list[NDArray[np.bool_]] = []
        totals: list[NDArray[Any]] = []
        sources: list[str] = []
        for _ in range(algorithm.resample_budget if resample else 1):
            prompts = self.stream.take(places - accepted)
            new_groups, local_table = self._round(prompts, clock)
            tables: list[CompletionTable] = self.rows.gather_objects(local_table)
            table = CompletionTable.concat(tables)
            dead = dead_prompts(self.plan, table, algorithm.dead_group_test)

            keep = ~dead if resample else np.ones(len(dead), bool)
            place = np.where(keep, accepted + np.cumsum(keep) - 1, -1)
            local_places = shard(place.tolist(), rank, ranks)
            groups += [group for group, at in zip(new_groups, local_places, strict=True) if at >= 0]
            rounds.append([part.accepted(place) for part in tables])
            dead_accepted.append(dead[keep])
            sources += [prompt.source for prompt, kept in zip(prompts, keep, strict=True) if kept]

            accepted += int(keep.sum())
            prompts_drawn, dead_drawn = prompts_drawn + len(dead), dead_drawn + int(dead.sum())
            tokens += int(table.sampled.sum())
            totals.append(table.rewards.total().ravel())
            if accepted == places:
                break
        by_rank = [CompletionTable.concat(parts) for parts in zip(*rounds, strict=True)]
        first = sum(len(part.lengths) for part in by_rank[:rank])
        return DrawnRollouts(
            groups=groups,
            rewards=by_rank[rank].rewards,
            table=CompletionTable.concat(by_rank),
            rows=slice(first, first + len(by_rank[rank].lengths)),
            dead=np.concatenate(dead_accepted),
            prompts=prompts_drawn,
            dead_prompts=dead_drawn,
            completions=prompts_drawn * self.config.rollout.group_size,
            tokens=tokens,
            drawn_reward=mean_of_finite(np.concatenate(totals)),
            rounds=len(rounds),
            sources=tuple(sources),
        )

    def _round(self, prompts: Sequence[Prompt], clock: Clock) -> tuple[list[RolloutGroup], CompletionTable]:
        """Generate and score this rank's share of the prompts."""
        numbers = shard(range(len(prompts)), self.rows.rank, self.rows.world_size)
        share = [prompts[number] for number in numbers]
        greedy: list[RolloutGroup] | None = None
        with clock.phase("generate"):
            self.memory.place("generate")
            size = self.config.rollout.group_size
            groups = complete(self.engine, self.environments, share, self.sampling, group_size=size)
            if "greedy" in self.plan.needs:
                sampling = replace(self.sampling, temperature=0.0)
                greedy = complete(self.engine, self.environments, share, sampling, group_size=1)
        with clock.phase("reward"):
            self.memory.place("reward")
            rewards = self.rows.once(lambda: self.rewards.score(groups))
            baseline = None if greedy is None else self.rows.once(lambda: self.rewards.score(greedy))
        return groups, CompletionTable.of(groups, rewards, numbers, greedy=baseline)


def load_environments(config: RunConfig, tokenizer: Tokenizer) -> Environments | None:
    """The environments of a run; None without ``environment``. Raises ConfigError where they do not fit."""
    if config.environment is None:
        return None
    return Environments(config.environment, tokenizer, config.data.rendered.chat_template_kwargs)


def complete(
    engine: RolloutEngine,
    environments: Environments | None,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    group_size: int,
) -> list[RolloutGroup]:
    """``group_size`` completions for each prompt, in conversation with the run's environment where it has one."""
    if environments is None:
        return engine.generate(prompts, sampling, group_size=group_size)
    return environments.generate(engine, prompts, sampling, group_size=group_size)


def mean_of_finite(values: NDArray[Any]) -> float:
    """The mean of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def dead_prompts(plan: Plan, table: CompletionTable, test: DeadGroupTestConfig | None) -> NDArray[np.bool_]:
    """Find the prompts whose completions' rewards leave nothing to learn, by the prompt's number ``[M]``."""
    rewards = table.rewards.without(test.without) if test is not None and test.without else table.rewards
    tolerance = 0.0 if test is None else test.tolerance
    return plan.dead_groups(rewards.values, rewards.weights, table.prompt, tolerance=tolerance)


def training_sampling(config: RunConfig) -> Sampling:
    """The sampling settings of training completions."""
    rollout = config.rollout
    return Sampling(
        max_tokens=rollout.max_tokens,
        min_tokens=rollout.min_tokens,
        temperature=rollout.temperature,
        top_k=rollout.top_k,
        top_p=rollout.top_p,
        min_p=rollout.min_p,
        repetition_penalty=rollout.repetition_penalty,
        stop=tuple(rollout.stop),
        seed=config.seed,
    )
