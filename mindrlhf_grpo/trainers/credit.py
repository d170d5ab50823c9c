"""Which token gets how much: from the rewards of the global batch to an advantage for every token of this rank's rows.

Where all tokens of a completion (or item) share its advantage, the host table of all ranks is enough and each rank
computes it alike. Where tokens differ (a critic's values, a KL in their rewards), each rank computes its own rows and
only sums travel. Legend: n rows of this rank, T tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..advantages import to_tokens
from ..algorithms import Plan
from ..backend import Comm
from ..errors import ConfigError
from ..token_advantages import Moments, discounted, gae, moments, token_rewards, whiten_tokens
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
    """
    kl = plan.kl_tokens(batch) if plan.kl_in_reward else None
    if plan.algorithm.returns == "same":
        kl_sums = None if kl is None else np.concatenate(comm.gather_objects(kl.sum(axis=1)))
        advantages = plan.advantages(whole.inputs(), kl_sums=kl_sums, kl_coef=kl_coef)[mine]
        return replace(batch, advantages=to_tokens(advantages, batch.lengths, batch.ids.shape[1], batch.segments))
    scores = plan.advantages(whole.inputs())
    if scores.shape[1] != 1:
        raise ConfigError(
            f"algorithm.name {plan.name!r} takes one reward a completion, the rewards of this run have one for each of "
            f"{scores.shape[1]} items; use a group algorithm such as rank_grpo"
        )
    rewards = token_rewards(scores[mine, 0], kl, kl_coef, batch.lengths, batch.ids.shape[1])
    return with_returns(plan, comm, batch, rewards, values)


def with_returns(plan: Plan, comm: Comm, batch: Batch, rewards: FloatArray, values: FloatArray | None) -> Batch:
    """Advantages from token rewards ``[n, T]``, whitened over the global batch where the plan says so."""
    returns = plan.returns
    tensors = dict(batch.tensors)
    if values is None:
        advantages = discounted(rewards, batch.lengths, gamma=returns.gamma)
    else:
        advantages, targets = gae(rewards, values, batch.lengths, gamma=returns.gamma, lam=returns.lam)
        tensors |= {"returns": targets.astype(np.float32), "old_values": values}
    if returns.whiten:
        parts: list[Moments] = comm.gather_objects(moments(advantages, batch.mask))
        advantages = whiten_tokens(advantages, batch.mask, Moments.total(parts))
    return replace(batch, advantages=advantages.astype(np.float32), tensors=tensors)
