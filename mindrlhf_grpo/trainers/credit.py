"""Which token gets how much: from the rewards of the global batch to an advantage for every token of this rank's rows.

Where all tokens of a completion (or item) share its advantage, the host table of all ranks is enough and each rank
computes it alike. Where tokens differ (a critic's values, a KL in their rewards), each rank computes its own rows and
only sums travel. Legend: N completions of all ranks, n of this one, T tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..advantages import gae, moments, reinforce_pp, to_tokens, token_rewards, whiten_tokens
from ..algorithms import Plan
from ..backend import Comm
from ..corrections import entropy_mask
from ..errors import ConfigError
from ..types import Batch, FloatArray
from .host_table import HostTable


def assign(
    plan: Plan, comm: Comm, batch: Batch, whole: HostTable, mine: slice, *, values: FloatArray | None, kl_coef: float
) -> Batch:
    """The batch with advantages and, with a critic, the ``returns`` it learns and its ``old_values``.

    Args:
        whole: every completion of the step; ``mine`` are the rows of ``batch``.
        values: of a critic ``[n, T]``; None without one.
        kl_coef: of a KL that is part of the reward; other KLs are the loss's.

    Raises:
        ConfigError: rewards by item for an algorithm that takes one a completion.
    """
    kl = plan.kl_tokens(batch) if plan.kl_in_reward else None
    by_completion = plan.algorithm.returns == "same"
    kl_sums = None
    if by_completion and kl is not None:
        kl_sums = np.concatenate(comm.gather_objects(kl.sum(axis=1)))
    rewards = whole.rewards
    scores = plan.advantages(
        rewards.values, rewards.weights, whole.prompt, whole.lengths,
        kl_sums=kl_sums, kl_coef=kl_coef, baselines=whole.baselines,
    )  # fmt: skip
    width = batch.ids.shape[1]
    if by_completion:
        return replace(batch, advantages=to_tokens(scores[mine], batch.lengths, width, batch.segments))
    if scores.shape[1] != 1:
        raise ConfigError(
            f"algorithm.name {plan.name!r} takes one reward a completion, the rewards of this run have one for each of "
            f"{scores.shape[1]} items; use an algorithm that compares items, such as rank_grpo"
        )
    kl = np.zeros(batch.ids.shape) if kl is None else kl
    return with_returns(plan, comm, batch, token_rewards(scores[mine, 0], kl, kl_coef, batch.lengths), values)


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


def corrected(plan: Plan, comm: Comm, batch: Batch) -> tuple[Batch, dict[str, float]]:
    """Advantages times the factors for the difference between engine and policy, where asked; and how large it is.

    Every surrogate is linear in a factor of its advantages, so this is the correction of the loss without its KL.
    """
    if batch.old_logps is None or batch.rollout_logps is None:
        return batch, {}
    log_ratio = batch.old_logps - batch.rollout_logps
    if plan.correction is None:
        return batch, {}
    weights = plan.correction.weights(log_ratio, batch.mask)
    sums = plan.correction.statistics(log_ratio, batch.mask)
    _ = comm, sums
    return replace(batch, advantages=(batch.advantages * weights).astype(np.float32)), {}


def uncertain(plan: Plan, comm: Comm, batch: Batch, entropies: FloatArray) -> FloatArray:
    """The mask ``[n, T]`` without the tokens that the policy is sure of, by a threshold over the global batch."""
    everywhere = np.concatenate(comm.gather_objects(entropies[batch.mask > 0]))
    _ = entropy_mask, everywhere
    return batch.mask
