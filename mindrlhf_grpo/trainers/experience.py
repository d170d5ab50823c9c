"""From prompts to what the policy learns from: rollouts, rewards, advantages, one batch a rank.

Every rank generates and scores its own share of the prompts. The small host tables (rewards, lengths)
are gathered, so each rank computes the same advantages and loss weights over the global batch in NumPy
and keeps its own rows: the result does not depend on the number of ranks.
Legend: N completions, F reward components, K segments, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..algorithms.plan import Plan
from ..algorithms.reward_scaling import RewardScaling
from ..backend import Comm, Policy, RolloutEngine
from ..batches.items import ItemSpans, Segments
from ..batches.online import build_batch, denominators, loss_weights
from ..config.run import RunConfig
from ..data.stream import PromptStream, shard
from ..rewards import Rewards, RewardTable
from ..run.clock import Clock
from ..tokenizers.tokenizer import Tokenizer
from ..types import Batch, FloatArray, IntArray, Prompt, RolloutGroup, Sampling
from . import credit
from .completion_table import CompletionTable
from .critic import Critic


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One step's completions on this rank, ready to learn from.

    Attributes:
        batch: this rank's rows; ``weights`` and ``advantages`` come from the global batch.
        chunk_of: ``[N]`` the optimizer step of a pass in which each row is used.
        metrics: figures over the global batch, equal on every rank.
        trained_tokens: tokens with a loss, over all ranks, in each optimizer step of a pass; where it is 0 there is
            nothing to learn.
        kl: of every completion of all ranks to the reference ``[N]``, where it is part of the reward; else None.
    """

    groups: list[RolloutGroup]
    table: RewardTable
    batch: Batch
    chunk_of: IntArray
    metrics: dict[str, float]
    trained_tokens: tuple[int, ...]
    kl: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The completions one step keeps, and what was drawn for them."""

    groups: list[RolloutGroup]  # of this rank
    tables: list[CompletionTable]  # of every rank
    prompts: int  # drawn over all ranks, replaced ones included
    dead: int  # of these, prompts whose group has nothing to learn
    tokens: int  # generated over all ranks
    rounds: int  # of generation


class Collector:
    """Turns the next prompts of the stream into an :class:`Experience`."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        comm: Comm,
        stream: PromptStream,
        engine: RolloutEngine,
        rewards: Rewards,
        tokenizer: Tokenizer,
    ) -> None:
        self.config, self.plan, self.comm = config, plan, comm
        self.stream, self.engine, self.rewards = stream, engine, rewards
        self.sampling = training_sampling(config)
        self.kl_control = plan.kl_control
        self.spans = ItemSpans(config.items, tokenizer)
        self.scaling = None if config.algorithm.scaling is None else RewardScaling(config.algorithm.scaling)

    def collect(self, policy: Policy, critic: Critic | None, clock: Clock) -> Experience:
        """Generate, score and weigh one rollout batch; dead groups are replaced where the configuration asks."""
        drawn = self._rollouts(clock)
        own = drawn.tables[self.comm.rank]
        first_row = sum(len(table.lengths) for table in drawn.tables[: self.comm.rank])
        whole = CompletionTable.concat(drawn.tables)
        mine = slice(first_row, first_row + len(own.lengths))
        trained = self._trained_rows(whole, self._dead_groups(whole))
        chunk_of = whole.prompt % self.config.algorithm.updates_per_batch

        count = own.rewards.segments
        segments = self.spans.of(drawn.groups, count) if count > 1 else None
        batch = self._batch(drawn.groups, own, trained[mine], segments)
        with clock.phase("logps"):
            batch, entropies = self._logps(policy, batch)
        uncertain = None if entropies is None else credit.uncertain_tokens(self.plan, self.comm, batch, entropies)
        if self.plan.count_kept and uncertain is not None:
            batch, uncertain = replace(batch, mask=uncertain), None
        batch, trained_tokens = self._weighted(batch, chunk_of, mine)
        with clock.phase("values"):
            values = None if critic is None else critic.model.values(batch)
        kl_coef = self.kl_control.coef
        learned, scaled = self._scaled(whole)
        batch, kl_sums = credit.assign(self.plan, self.comm, batch, learned, mine, values=values, kl_coef=kl_coef)
        if segments is not None and segments.extra is not None:
            batch = replace(batch, advantages=batch.advantages + segments.extra)
        if self.scaling is not None:
            advantages, bounded = self.scaling.advantages(batch, self.comm)
            batch, scaled = replace(batch, advantages=advantages), {**scaled, **bounded}
        batch, corrections = credit.corrected(self.plan, self.comm, batch, uncertain)
        return Experience(
            groups=without_features(drawn.groups),
            table=own.rewards,
            batch=batch,
            chunk_of=chunk_of[mine],
            metrics={**step_metrics(whole, drawn), **scaled, **corrections, **self._control_kl(kl_sums)},
            trained_tokens=trained_tokens,
            kl=kl_sums,
        )

    def _rollouts(self, clock: Clock) -> Drawn:
        """Draw until every place in the step is taken or the budget of rounds is spent."""
        resample = self.config.algorithm.dead_groups == "resample"
        wanted, rank, ranks = self.config.train.prompts_per_step, self.comm.rank, self.comm.world_size
        accepted = prompts_drawn = dead_drawn = tokens = 0
        groups: list[RolloutGroup] = []
        rounds: list[list[CompletionTable]] = []
        for _ in range(self.config.algorithm.resample_budget if resample else 1):
            prompts = self.stream.take(wanted - accepted)
            new_groups, own = self._round(prompts, clock)
            tables: list[CompletionTable] = self.comm.gather_objects(own)
            whole = CompletionTable.concat(tables)
            dead = self._dead_groups(whole)
            prompts_drawn, dead_drawn = prompts_drawn + len(dead), dead_drawn + int(dead.sum())
            tokens += int(whole.lengths.sum())
            keep = ~dead if resample else np.ones(len(dead), bool)
            place = np.where(keep, accepted + np.cumsum(keep) - 1, -1)
            groups += [
                group for group, at in zip(new_groups, shard(place.tolist(), rank, ranks), strict=True) if at >= 0
            ]
            rounds.append([table.kept(place) for table in tables])
            accepted += int(keep.sum())
            if accepted == wanted:
                break
        kept = [CompletionTable.concat(parts) for parts in zip(*rounds, strict=True)]
        return Drawn(
            groups=groups, tables=kept, prompts=prompts_drawn, dead=dead_drawn, tokens=tokens, rounds=len(rounds)
        )

    def _round(self, prompts: Sequence[Prompt], clock: Clock) -> tuple[list[RolloutGroup], CompletionTable]:
        """Generate and score this rank's share of the prompts."""
        numbers = shard(range(len(prompts)), self.comm.rank, self.comm.world_size)
        with clock.phase("generate"):
            self.engine.wake_up()
            share = [prompts[number] for number in numbers]
            groups = self.engine.generate(share, self.sampling, group_size=self.config.rollout.group_size)
            greedy = None
            if "greedy" in self.plan.needs:
                greedy = self.engine.generate(share, replace(self.sampling, temperature=0.0), group_size=1)
            if self.rewards.uses_models:  # they are given the memory of the engine
                self.engine.sleep()
        with clock.phase("reward"):
            table = self.rewards.score(groups)
            baseline = None if greedy is None else self.rewards.score(greedy)
        return groups, CompletionTable.of(groups, table, numbers, greedy=baseline)

    def _dead_groups(self, whole: CompletionTable) -> NDArray[np.bool_]:
        """Of each prompt, whether its completions' rewards leave nothing to learn."""
        test = self.config.algorithm.dead_group_test
        rewards = whole.rewards.without(test.without) if test is not None and test.without else whole.rewards
        tolerance = 0.0 if test is None else test.tolerance
        dead: NDArray[np.bool_] = self.plan.dead_groups(
            rewards.values, rewards.weights, whole.prompt, tolerance=tolerance
        )
        return dead

    def _trained_rows(self, whole: CompletionTable, dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """``[N]`` whether a completion has a loss at all."""
        algorithm = self.config.algorithm
        trained: NDArray[np.bool_] = ~np.isnan(whole.rewards.total()).all(axis=1)
        if algorithm.mask_truncated:
            trained &= ~whole.truncated
        if algorithm.dead_groups != "keep":
            trained &= ~dead[whole.prompt]
        return trained

    def _batch(
        self, groups: list[RolloutGroup], own: CompletionTable, trained: NDArray[np.bool_], segments: Segments | None
    ) -> Batch:
        """This rank's rows and which of their tokens are trained; weights and advantages are still 0."""
        inside = np.arange(int(own.lengths.max(initial=0)))[None, :] < own.lengths[:, None]
        mask = (inside & trained[:, None]).astype(np.float32)
        items = None if segments is None else segments.items
        if items is not None and self.config.items is not None and not self.config.items.train_others:
            mask *= items >= 0
        return build_batch(
            groups,
            np.zeros_like(mask),
            weights=np.zeros_like(mask),
            temperature=self.sampling.temperature,
            mask=mask,
            segments=items,
        )

    def _logps(self, policy: Policy, batch: Batch) -> tuple[Batch, FloatArray | None]:
        """Add old and reference log-probs where they are needed; entropies ``[n, T]`` if tokens are chosen by them."""
        entropies = None
        if "old_logps" in self.plan.needs:
            found = policy.logps(batch, entropy=self.plan.top_fraction < 1)
            batch, entropies = replace(batch, old_logps=found.logps), found.entropy
        if "reference" in self.plan.needs:
            batch = replace(batch, ref_logps=policy.logps(batch, reference=True).logps)
        return batch, entropies

    def _weighted(self, batch: Batch, chunk_of: IntArray, mine: slice) -> tuple[Batch, tuple[int, ...]]:
        """Loss weights from the denominators of each optimizer step's global batch; tokens trained in each step."""
        trained = np.concatenate(self.comm.gather_objects(batch.mask.sum(axis=1))).astype(np.int64)
        weights = np.zeros_like(batch.mask)
        chunks = range(self.config.algorithm.updates_per_batch)
        for chunk in chunks:
            inside = chunk_of == chunk
            tokens, sequences = denominators(trained[inside], count_masked_rows=self.plan.settings.count_masked_rows)
            weights[inside[mine]] = loss_weights(
                batch.mask[inside[mine]],
                self.plan.settings.aggregation,
                tokens=tokens,
                sequences=sequences,
                max_tokens=self.config.rollout.max_tokens,
            )
        return replace(batch, weights=weights), tuple(int(trained[chunk_of == chunk].sum()) for chunk in chunks)

    def _scaled(self, whole: CompletionTable) -> tuple[CompletionTable, dict[str, float]]:
        """The rewards that are learned from: one total, where the configuration brings it to a size."""
        if self.scaling is None:
            return whole, {}
        total, figures = self.scaling.rewards(whole.rewards.total())
        table = RewardTable(names=("total",), weights=np.ones(1), values=total[:, None, :])
        return replace(whole, rewards=table), figures

    def _control_kl(self, kl_sums: FloatArray | None) -> dict[str, float]:
        """Move the coefficient of a KL in the reward towards its target; what both were, as metrics."""
        if kl_sums is None:
            return {}
        coef = self.kl_control.coef
        self.kl_control.update(mean(kl_sums), len(kl_sums))
        return {"kl/coef": coef, "kl/reward": mean(kl_sums)}


def without_features(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The groups without images, which the batch has and nobody else needs: groups go from rank to rank."""
    return [
        replace(group, prompt=replace(group.prompt, features={})) if group.prompt.features else group
        for group in groups
    ]


def step_metrics(whole: CompletionTable, drawn: Drawn) -> dict[str, float]:
    """Figures of the global batch."""
    total = whole.rewards.total()
    metrics = {
        "reward/mean": mean(total),
        "reward/std": float(np.nanstd(total)) if np.isfinite(total).any() else 0.0,
        "reward/unscored_frac": float(np.isnan(total).all(axis=1).mean()) if len(total) else 0.0,
        "dead_group_frac": drawn.dead / drawn.prompts,
        "generation_rounds": float(drawn.rounds),
        "length/mean": mean(whole.lengths),
        "length/max": float(whole.lengths.max(initial=0)),
        "truncated_frac": mean(whole.truncated),
        "tokens/generated": float(drawn.tokens),
        "prompts": float(len(np.unique(whole.prompt))),
    }
    for index, name in enumerate(whole.rewards.names):
        metrics[f"reward/{name}/mean"] = mean(whole.rewards.values[:, index])
    for name, count in whole.rewards.failures.items():
        metrics[f"reward/failures/{name}"] = float(count)
    return metrics


def mean(values: FloatArray | IntArray | NDArray[np.bool_]) -> float:
    """Mean of the finite values, 0 if there are none."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else 0.0


def training_sampling(config: RunConfig) -> Sampling:
    """How training completions are drawn."""
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
