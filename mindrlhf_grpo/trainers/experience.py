"""From prompts to a batch that the policy can learn from: rollouts, rewards, log-probs, advantages.

Every rank generates and scores its own share of the prompts. The small host tables (rewards, lengths) are gathered, so
each rank computes the same advantages and loss weights over the global batch in NumPy and keeps its own rows: the
result does not depend on the number of ranks. Legend: N completions of all ranks, n of this rank, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..algorithms.completion_table import CompletionTable
from ..algorithms.credit import CreditRules, TokenTensors, assign_credit
from ..algorithms.plan import Plan
from ..algorithms.reward_scaling import RewardScaling
from ..backend import Policy, RowRanks
from ..batches.items import ItemSpans, Segments
from ..batches.online import build_batch, sampled_tokens
from ..config.algorithm import AlgorithmConfig
from ..config.run import RunConfig
from ..metrics.means import mean
from ..parallel.residency import Residency
from ..rewards import RewardTable
from ..run.clock import Clock
from ..tokenizers.tokenizer import Tokenizer
from ..types import Batch, FloatArray, IntArray, RolloutGroup
from .critic import Critic
from .rollouts import DrawnRollouts, RolloutSource
from .step_metrics import rollout_metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One step's completions on this rank, ready to learn from.

    Attributes:
        batch: this rank's rows; ``weights`` and ``advantages`` come from the global batch.
        chunk_of: ``[n]`` the optimizer step of a pass in which each row is used.
        metrics: statistics of the global batch, equal on every rank.
        trained_tokens: tokens with a loss, over all ranks, in each optimizer step of a pass; where it is 0 there is
            nothing to learn.
        failure_reasons: reward component -> why the first of its failed samples failed, over all ranks.
        kl: KL of every completion of all ranks to the reference ``[N]``, where it is part of the reward; else None.
    """

    groups: list[RolloutGroup]
    table: RewardTable
    batch: Batch
    chunk_of: IntArray
    metrics: dict[str, float]
    trained_tokens: tuple[int, ...]
    failure_reasons: Mapping[str, str] = field(default_factory=dict)
    kl: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogProbs:
    """Results of the policy's forward passes before the first update ``[n, T]``; None where not needed."""

    old: FloatArray | None = None
    reference: FloatArray | None = None
    entropies: FloatArray | None = None


class Collector:
    """Makes the :class:`Experience` of each step.

    Attributes:
        kl_control, scaling: the state that credit assignment keeps from step to step; a checkpoint has it.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        rows: RowRanks,
        source: RolloutSource,
        tokenizer: Tokenizer,
        memory: Residency,
    ) -> None:
        self.config, self.plan, self.rows, self.source, self.memory = config, plan, rows, source, memory
        self.spans = ItemSpans(config.items, tokenizer)
        self.kl_control = plan.kl_control
        self.scaling = None if config.algorithm.scaling is None else RewardScaling(config.algorithm.scaling)
        self.rules = CreditRules(
            plan=plan,
            updates_per_batch=config.algorithm.updates_per_batch,
            max_tokens=config.rollout.max_tokens,
            scaling=config.algorithm.scaling,
        )

    def collect(self, policy: Policy, critic: Critic | None, clock: Clock) -> Experience:
        """Draw and score rollouts, decide what is trained, compute log-probs and values, assign credit."""
        drawn = self.source.draw(clock)
        table, rows = drawn.table, drawn.rows
        trained = trained_rows(self.config.algorithm, table, drawn.dead)
        segments = self._segments(drawn)
        tokens = self._tokens(drawn, trained[rows], segments)

        logps = self._log_probs(policy, tokens, clock)
        values = None if critic is None else self._values(critic, tokens, clock)

        rewarded, reward_metrics = self._scale_rewards(table)
        credit = assign_credit(
            self.rules,
            rewarded,
            rows,
            token_tensors(tokens, logps, values, segments),
            kl_coef=self.kl_control.coef,
            gather=self.rows.gather_objects,
        )
        resampled = self.config.algorithm.dead_groups == "resample"
        batch = replace(
            tokens,
            mask=credit.mask,
            weights=credit.weights,
            advantages=credit.advantages,
            old_logps=logps.old,
            ref_logps=logps.reference,
            tensors=credit.tensors,
        )
        return Experience(
            groups=without_features(drawn.groups),
            table=drawn.rewards,
            batch=batch,
            chunk_of=credit.chunk_of,
            metrics={
                **rollout_metrics(drawn, resampled=resampled),
                **reward_metrics,
                **credit.metrics,
                **self._adapt_kl_coef(credit.kl),
            },
            trained_tokens=credit.trained_tokens,
            failure_reasons=table.rewards.reasons,
            kl=credit.kl,
        )

    def _segments(self, drawn: DrawnRollouts) -> Segments | None:
        """The items of this rank's completions, where rewards are given per item."""
        items = drawn.rewards.segments
        return self.spans.of(drawn.groups, items) if items > 1 else None

    def _tokens(self, drawn: DrawnRollouts, trained: NDArray[np.bool_], segments: Segments | None) -> Batch:
        """This rank's tokens and which of them are trained: enough for forward passes, not yet for a loss."""
        lengths = drawn.table.lengths[drawn.rows]
        inside = np.arange(int(lengths.max(initial=0)))[None, :] < lengths[:, None]
        sampled = sampled_tokens(drawn.groups)
        mask = ((inside if sampled is None else inside & sampled) & trained[:, None]).astype(np.float32)
        items = None if segments is None else segments.items
        if items is not None and self.config.items is not None and not self.config.items.train_others:
            mask *= items >= 0
        nothing = np.zeros_like(mask)
        temperature = self.source.sampling.temperature
        return build_batch(drawn.groups, nothing, weights=nothing, temperature=temperature, mask=mask, segments=items)

    def _log_probs(self, policy: Policy, tokens: Batch, clock: Clock) -> TokenLogProbs:
        """Log-probs of policy and reference where they are needed, and entropies where tokens are selected by them."""
        needs = self.plan.needs & {"old_logps", "reference"}
        if not needs:
            return TokenLogProbs()
        with clock.phase("logps"):
            self.memory.place("logps")
            old = policy.logps(tokens, entropy=self.plan.top_fraction < 1) if "old_logps" in needs else None
            reference = policy.logps(tokens, reference=True) if "reference" in needs else None
        return TokenLogProbs(
            old=None if old is None else old.logps,
            reference=None if reference is None else reference.logps,
            entropies=None if old is None else old.entropy,
        )

    def _values(self, critic: Critic, tokens: Batch, clock: Clock) -> FloatArray:
        """The critic's values before each token ``[n, T]``."""
        with clock.phase("values"):
            self.memory.place("values")
            return critic.values(tokens)

    def _scale_rewards(self, table: CompletionTable) -> tuple[CompletionTable, dict[str, float]]:
        """The rewards to learn from: with ``algorithm.scaling`` one total, scaled by the running moments."""
        if self.scaling is None:
            return table, {}
        total, metrics = self.scaling.rewards(table.rewards.total())
        rewards = RewardTable(names=("total",), weights=np.ones(1), values=total[:, None, :])
        return replace(table, rewards=rewards), metrics

    def _adapt_kl_coef(self, kl: FloatArray | None) -> dict[str, float]:
        """Move the coefficient of a KL in the reward towards its target; this step's coefficient and KL as metrics."""
        if kl is None:
            return {}
        coef = self.kl_control.coef
        self.kl_control.update(mean(kl), len(kl))
        return {"kl/coef": coef, "kl/reward": mean(kl)}

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint keeps, as plain JSON."""
        scaling = {} if self.scaling is None else {"scaling": self.scaling.state()}
        return {"kl_coef": self.kl_control.state(), **scaling}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.kl_control.restore(saved["kl_coef"])
        if self.scaling is not None:
            self.scaling.restore(saved["scaling"])


def trained_rows(algorithm: AlgorithmConfig, table: CompletionTable, dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Select the completions that are trained ``[N]``: scored, not masked for their length, not in a dead group."""
    trained: NDArray[np.bool_] = ~np.isnan(table.rewards.total()).all(axis=1)
    if algorithm.mask_truncated:
        trained &= ~table.truncated
    if algorithm.dead_groups != "keep":
        trained &= ~dead[table.prompt]
    return trained


def token_tensors(
    tokens: Batch, logps: TokenLogProbs, values: FloatArray | None, segments: Segments | None
) -> TokenTensors:
    """The token tensors of this rank that credit assignment reads."""
    assert tokens.rollout_logps is not None  # a batch of rollouts has them
    return TokenTensors(
        lengths=tokens.lengths,
        mask=tokens.mask,
        rollout_logps=tokens.rollout_logps,
        old_logps=logps.old,
        ref_logps=logps.reference,
        segments=tokens.segments,
        bonus=None if segments is None else segments.extra,
        entropies=logps.entropies,
        values=values,
        sampled=tokens.sampled,
    )


def without_features(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The groups without their images, which only the batch needs: groups travel between ranks."""
    return [
        replace(group, prompt=replace(group.prompt, features={})) if group.prompt.features else group
        for group in groups
    ]
