"""Credit assignment: from the rewards of the global batch to an advantage and a loss weight for every token.

:func:`assign_credit` is a function of its arguments. It reads the table of all completions, which is the same on every
rank, and the token tensors of this rank's rows. Where all tokens of a completion (or item) share its advantage, each
rank computes the same from the table. Where tokens differ (a critic's values, a KL in their rewards, corrections), each
rank computes its own rows; what these need from other ranks is gathered first, and after that only sums travel.
Legend: N completions of all ranks, n of this rank, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..advantages import gae, moments, reinforce_pp, to_tokens, token_rewards, whiten_tokens
from ..batches.online import denominators, loss_weights
from ..batches.sums import combine
from ..config.algorithm import ScalingConfig
from ..errors import ConfigError
from ..types import FloatArray, IntArray
from .completion_table import CompletionTable
from .corrections import Correction, entropy_mask
from .plan import Plan
from .reward_scaling import scale_advantages

Gather: TypeAlias = Callable[
    [Any], list[Any]
]  # every rank's item, in rank order; with one rank ``lambda item: [item]``


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRules:
    """The settings of a run that credit assignment reads.

    Attributes:
        updates_per_batch: optimizer steps that one pass over the batch is cut into.
        max_tokens: the longest completion that may be sampled.
    """

    plan: Plan
    updates_per_batch: int
    max_tokens: int
    scaling: ScalingConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTensors:
    """Facts about the tokens of this rank's completions, each ``[n, T]``; None where not needed.

    Attributes:
        lengths: tokens of each completion ``[n]``.
        mask: 1 where a token is trained.
        sampled: whether a token was sampled, where an environment wrote others; returns flow through those.
        segments: item index of each token, -1 outside items.
        bonus: added to the advantage of each token.
        entropies: of the policy, to select tokens by.
        values: of a critic, before each token.
    """

    lengths: IntArray
    mask: FloatArray
    rollout_logps: FloatArray
    old_logps: FloatArray | None = None
    ref_logps: FloatArray | None = None
    segments: IntArray | None = None
    bonus: FloatArray | None = None
    entropies: FloatArray | None = None
    values: FloatArray | None = None
    sampled: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """The result for this rank's rows.

    Attributes:
        mask, weights, advantages: ``[n, T]`` as in :class:`Batch`.
        tensors: with a critic the ``returns`` it learns and its ``old_values`` ``[n, T]``.
        chunk_of: ``[n]`` the optimizer step of a pass in which each row is used.
        trained_tokens: tokens with a loss, over all ranks, in each optimizer step of a pass.
        kl: KL of every completion of all ranks to the reference ``[N]``, where it is part of the reward; else None.
        metrics: statistics over the global batch, equal on every rank.
    """

    mask: FloatArray
    weights: FloatArray
    advantages: FloatArray
    chunk_of: IntArray
    trained_tokens: tuple[int, ...]
    tensors: Mapping[str, FloatArray] = field(default_factory=dict)
    kl: FloatArray | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def assign_credit(
    rules: CreditRules, table: CompletionTable, rows: slice, tokens: TokenTensors, *, kl_coef: float, gather: Gather
) -> Credit:
    """Advantages, loss weights and critic targets of this rank's rows.

    Args:
        table: every completion of the step; ``rows`` of it are this rank's.
        kl_coef: of a KL that is part of the reward; other KLs belong to the loss.

    Raises:
        ConfigError: rewards per item for an algorithm that takes one per completion.
    """
    plan = rules.plan
    kl = kl_in_reward(plan, tokens)
    facts = gather_facts(tokens, kl, gather)

    mask, filtered, trained = filter_by_entropy(plan, tokens, facts, rows)
    chunk_of = table.prompt % rules.updates_per_batch
    weights, trained_tokens = weigh(rules, mask, trained, chunk_of, rows)

    scores = plan.advantages(
        table.rewards.values,
        table.rewards.weights,
        table.prompt,
        table.sampled,
        kl_sums=facts.kl,
        kl_coef=kl_coef,
        baselines=table.baselines,
    )
    tensors: dict[str, FloatArray] = {}
    if plan.algorithm.returns == "same":
        advantages = share_with_tokens(scores[rows], tokens)
    else:
        rewards = rewards_of_tokens(plan, scores, rows, tokens, kl, kl_coef)
        advantages, tensors = accumulate_returns(plan, rewards, tokens)
        if plan.returns.whiten:
            total = np.sum(gather(moments(advantages, mask)), axis=0)
            advantages = whiten_tokens(advantages, mask, total, plan.settings.token_whitening)
        advantages = advantages.astype(np.float32)
    if tokens.bonus is not None:
        advantages = advantages + tokens.bonus
    scaling_metrics: dict[str, float] = {}
    if rules.scaling is not None:
        advantages, scaling_metrics = scale_advantages(rules.scaling, advantages, mask, gather)
    correction, correction_metrics = correct(plan, mask, tokens, gather)
    factors = filtered if correction is None else filtered * correction

    return Credit(
        mask=mask,
        weights=weights,
        # Every surrogate is linear in a factor of its advantages: the loss is corrected, its KL is not.
        advantages=(advantages * factors).astype(np.float32),
        chunk_of=chunk_of[rows],
        trained_tokens=trained_tokens,
        tensors=tensors,
        kl=facts.kl,
        metrics={**scaling_metrics, **correction_metrics},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """Facts about tokens that every rank needs from all ranks.

    Attributes:
        trained: trained tokens of each completion ``[N]``.
        entropies: of all trained tokens, row by row, flat; None where no token is selected by them.
        kl: KL of each completion ``[N]``, where it is part of the reward.
    """

    trained: IntArray
    entropies: FloatArray | None
    kl: FloatArray | None


def kl_in_reward(plan: Plan, tokens: TokenTensors) -> NDArray[np.float64] | None:
    """KL of each token to the reference ``[n, T]`` where it is part of the reward, else None."""
    if not plan.kl_in_reward:
        return None
    kl = plan.kl_tokens(tokens.old_logps, tokens.ref_logps, tokens.lengths)
    return kl if tokens.sampled is None else np.where(tokens.sampled, kl, 0.0)


def gather_facts(tokens: TokenTensors, kl: FloatArray | None, gather: Gather) -> TokenFacts:
    """One exchange between the ranks: everything that the maths needs to know of other ranks' tokens beforehand."""
    local = TokenFacts(
        trained=tokens.mask.sum(axis=1).astype(np.int64),
        entropies=None if tokens.entropies is None else tokens.entropies[tokens.mask > 0],
        kl=None if kl is None else kl.sum(axis=1),
    )
    ranks: list[TokenFacts] = gather(local)
    return TokenFacts(
        trained=np.concatenate([facts.trained for facts in ranks]),
        entropies=joined([facts.entropies for facts in ranks]),
        kl=joined([facts.kl for facts in ranks]),
    )


def joined(parts: list[FloatArray | None]) -> FloatArray | None:
    """The arrays of all ranks one after the other; None where the ranks have none."""
    present: list[FloatArray] = [part for part in parts if part is not None]
    joined_parts: NDArray[Any] | None = np.concatenate(present) if present else None
    return joined_parts


def filter_by_entropy(
    plan: Plan, tokens: TokenTensors, facts: TokenFacts, rows: slice
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Select the ``top_fraction`` of the global batch's trained tokens by entropy, where the plan asks for it.

    Returns:
        The mask ``[n, T]``; factors of the advantages ``[n, T]``; trained tokens of every completion ``[N]``. A filter
        with ``count_kept`` narrows the mask (and so the denominators), any other sets factors to 0.
    """
    everywhere = np.ones(tokens.mask.shape)
    if tokens.entropies is None or facts.entropies is None:
        return tokens.mask, everywhere, facts.trained
    selected = entropy_mask(tokens.entropies, tokens.mask, 1.0 - plan.top_fraction, gathered=facts.entropies)
    if not plan.count_kept:
        return tokens.mask, selected, facts.trained
    flat = facts.entropies[None, :]
    selected_anywhere = entropy_mask(flat, np.ones_like(flat), 1.0 - plan.top_fraction)[0]
    row_of = np.repeat(np.arange(len(facts.trained)), facts.trained)
    trained = np.bincount(row_of, weights=selected_anywhere, minlength=len(facts.trained)).astype(np.int64)
    return selected, everywhere, trained


def weigh(
    rules: CreditRules, mask: FloatArray, trained: IntArray, chunk_of: IntArray, rows: slice
) -> tuple[FloatArray, tuple[int, ...]]:
    """Loss weights ``[n, T]`` from the denominators of each optimizer step's global batch; tokens trained in each."""
    settings = rules.plan.settings
    weights = np.zeros_like(mask)
    chunks = range(rules.updates_per_batch)
    for chunk in chunks:
        inside = chunk_of == chunk
        tokens, sequences = denominators(trained[inside], count_masked_rows=settings.count_masked_rows)
        weights[inside[rows]] = loss_weights(
            mask[inside[rows]], settings.aggregation, tokens=tokens, sequences=sequences, max_tokens=rules.max_tokens
        )
    return weights, tuple(int(trained[chunk_of == chunk].sum()) for chunk in chunks)


def share_with_tokens(scores: FloatArray, tokens: TokenTensors) -> FloatArray:
    """Give every token the advantage of its completion, or of its item ``[n, T]``; tokens past the last item get 0."""
    segments = tokens.segments
    items = None if segments is None else np.where(segments < scores.shape[1], segments, -1)
    advantages = to_tokens(scores, tokens.lengths, tokens.mask.shape[1], items)
    return advantages if tokens.sampled is None else np.where(tokens.sampled, advantages, 0.0)


def rewards_of_tokens(
    plan: Plan, scores: FloatArray, rows: slice, tokens: TokenTensors, kl: FloatArray | None, kl_coef: float
) -> FloatArray:
    """Token rewards ``[n, T]``: the score of a completion at its last token, a KL at every token.

    Raises:
        ConfigError: rewards per item.
    """
    if scores.shape[1] != 1:
        raise ConfigError(
            f"algorithm.name {plan.name!r} takes one reward per completion, but the rewards of this run have one for "
            f"each of {scores.shape[1]} items; docs/algorithms.md lists the algorithms that compare items"
        )
    return token_rewards(scores[rows, 0], np.zeros(tokens.mask.shape) if kl is None else kl, kl_coef, tokens.lengths)


def accumulate_returns(
    plan: Plan, rewards: FloatArray, tokens: TokenTensors
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Advantages ``[n, T]`` from token rewards, not yet whitened; with a critic the tensors of its loss besides.

    Tokens that an environment wrote have none, and returns flow through them.
    """
    settings, sampled = plan.returns, tokens.sampled
    lengths = tokens.lengths if sampled is None else sampled.sum(axis=1)
    rewards = joined_turns(rewards, sampled)
    if tokens.values is None:
        return parted_turns(reinforce_pp(rewards, lengths, settings.gamma), sampled), {}
    values = joined_turns(tokens.values, sampled)
    advantages, targets = (
        parted_turns(array, sampled) for array in gae(rewards, values, lengths, settings.gamma, settings.lam)
    )
    return advantages, {"returns": targets.astype(np.float32), "old_values": tokens.values}


def joined_turns(array: NDArray[Any], sampled: NDArray[np.bool_] | None) -> NDArray[Any]:
    """``[n, T]`` with the sampled tokens of each row first: what an environment wrote takes no step of time.

    The state after a turn's last token is the one before the next turn's first: the environment is part of the transition.
    """
    return array if sampled is None else np.take_along_axis(array, np.argsort(~sampled, axis=1, kind="stable"), axis=1)


def parted_turns(array: NDArray[Any], sampled: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Undo :func:`joined_turns`."""
    if sampled is None:
        return array
    placed = np.zeros_like(array)
    np.put_along_axis(placed, np.argsort(~sampled, axis=1, kind="stable"), array, axis=1)
    return placed


def correct(
    plan: Plan, mask: FloatArray, tokens: TokenTensors, gather: Gather
) -> tuple[FloatArray | None, dict[str, float]]:
    """Factors ``[n, T]`` of the plan's train/rollout correction, and how far policy and engine differ, as metrics."""
    if tokens.old_logps is None:
        return None, {}
    log_ratio = tokens.old_logps - tokens.rollout_logps
    measured = plan.correction or Correction()
    sums = combine(gather({**measured.statistics(log_ratio, mask), "tokens": float(mask.sum())}))
    trained = max(1.0, sums.pop("tokens"))
    metrics = {
        "correction/mean": sums["correction"] / trained,
        "correction/unbounded": sums["correction_unbounded"] / trained,
        "correction/changed_frac": sums["correction_changed"] / trained,
        "correction/max": sums["max/correction"],
    }
    return (None if plan.correction is None else plan.correction.weights(log_ratio, mask)), metrics
