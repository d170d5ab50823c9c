"""Which token gets how much: from the rewards of the global batch to an advantage for every token of this rank's rows.

Where all tokens of a completion (or item) share its advantage, the host table of all ranks is enough and each rank
computes it alike. Where tokens differ (a critic's values, a KL in their rewards), each rank computes its own rows and
only sums travel. Legend: N completions of all ranks, n of this one, T tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..advantages import gae, moments, reinforce_pp, to_tokens, token_rewards, whiten_tokens
from ..algorithms.corrections import Correction, entropy_mask
from ..algorithms.plan import Plan
from ..backend import Comm
from ..batches.sums import combine
from ..errors import ConfigError
from ..types import Batch, FloatArray
from .completion_table import CompletionTable


def assign(
    plan: Plan,
    comm: Comm,
    batch: Batch,
    whole: CompletionTable,
    mine: slice,
    *,
    values: FloatArray | None,
    kl_coef: float,
) -> tuple[Batch, FloatArray | None]:
    """The batch with advantages and, with a critic, the ``returns`` it learns and its ``old_values``.

    The second is the KL of every completion ``[N]`` where it is part of the reward, else None.

    Args:
        whole: every completion of the step; ``mine`` are the rows of ``batch``.
        values: of a critic ``[n, T]``; None without one.
        kl_coef: of a KL that is part of the reward; other KLs are the loss's.

    Raises:
        ConfigError: rewards by item for an algorithm that takes one a completion.
    """
    kl = plan.kl_tokens(batch) if plan.kl_in_reward else None
    kl_sums = None if kl is None else np.concatenate(comm.gather_objects(kl.sum(axis=1)))
    rewards = whole.rewards
    scores = plan.advantages(
        rewards.values, rewards.weights, whole.prompt, whole.lengths,
        kl_sums=kl_sums, kl_coef=kl_coef, baselines=whole.baselines,
    )  # fmt: skip
    width = batch.ids.shape[1]
    if plan.algorithm.returns == "same":
        items = None if batch.segments is None else np.where(batch.segments < scores.shape[1], batch.segments, -1)
        advantages = to_tokens(scores[mine], batch.lengths, width, items)
        return replace(batch, advantages=advantages), kl_sums
    if scores.shape[1] != 1:
        raise ConfigError(
            f"algorithm.name {plan.name!r} takes one reward a completion, the rewards of this run have one for each of "
            f"{scores.shape[1]} items; docs/algorithms.md lists the algorithms that compare items"
        )
    kl = np.zeros(batch.ids.shape) if kl is None else kl
    rewards_of_tokens = token_rewards(scores[mine, 0], kl, kl_coef, batch.lengths)
    return with_returns(plan, comm, batch, rewards_of_tokens, values), kl_sums


def with_returns(plan: Plan, comm: Comm, batch: Batch, rewards: FloatArray, values: FloatArray | None) -> Batch:
    """Advantages from token rewards ``[n, T]``, whitened over the global batch where the plan says so."""
    settings, tensors = plan.returns, dict(batch.tensors)
    if values is None:
        advantages = reinforce_pp(rewards, batch.lengths, settings.gamma)
    else:
        advantages, targets = gae(rewards, values, batch.lengths, settings.gamma, settings.lam)
        tensors |= {"returns": targets.astype(np.float32), "old_values": values}
    if settings.whiten:
        total = np.sum(comm.gather_objects(moments(advantages, batch.mask)), axis=0)
        advantages = whiten_tokens(advantages, batch.mask, total, plan.settings.token_whitening)
    return replace(batch, advantages=advantages.astype(np.float32), tensors=tensors)


def corrected(plan: Plan, comm: Comm, batch: Batch, uncertain: FloatArray | None) -> tuple[Batch, dict[str, float]]:
    """Advantages times the factors of the plan's correction and of its entropy filter; how far policy and engine differ.

    Every surrogate is linear in a factor of its advantages, so the loss is corrected and its KL is not.

    Args:
        uncertain: 1 at the tokens that are trained ``[n, T]``; None: all of them, or the mask says it.
    """
    factors = np.ones(batch.ids.shape) if uncertain is None else uncertain
    metrics: dict[str, float] = {}
    if batch.old_logps is not None and batch.rollout_logps is not None:
        log_ratio = batch.old_logps - batch.rollout_logps
        correction = plan.correction or Correction()
        parts = comm.gather_objects({**correction.statistics(log_ratio, batch.mask), "tokens": float(batch.mask.sum())})
        sums = combine(parts)
        tokens = max(1.0, sums.pop("tokens"))
        metrics = {
            "correction/mean": sums["correction"] / tokens,
            "correction/unbounded": sums["correction_unbounded"] / tokens,
            "correction/changed_frac": sums["correction_changed"] / tokens,
            "correction/max": sums["max/correction"],
        }
        if plan.correction is not None:
            factors = factors * plan.correction.weights(log_ratio, batch.mask)
    return replace(batch, advantages=(batch.advantages * factors).astype(np.float32)), metrics


def uncertain_tokens(plan: Plan, comm: Comm, batch: Batch, entropies: FloatArray) -> FloatArray:
    """1 at trained tokens among the ``top_fraction`` of the global batch by entropy, else 0 ``[n, T]``."""
    everywhere = np.concatenate(comm.gather_objects(entropies[batch.mask > 0]))
    return entropy_mask(entropies, batch.mask, 1.0 - plan.top_fraction, gathered=everywhere)
