"""Lite PPO: the mean of the group, the standard deviation of the batch, and the mean over tokens."""

from __future__ import annotations

import numpy as np

from ...advantages import Table, centre, check_shapes, unscored_to_zero, weighted_total
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def lite_ppo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean of the group) / (std of the batch + eps): easy and hard prompts are scaled alike. ``[N, K]``

    "Tricks or Traps? A Deep Dive into RL for LLM Reasoning", https://arxiv.org/abs/2508.08221. The standard deviation is
    that of the rewards, not of the centred ones, as in TRL. Arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    rewards = weighted_total(values, weights)
    centred, peers = centre(rewards, groups)
    # a completion left alone in its group is compared with nothing and takes no part in the batch either
    around_batch, count = centre(np.where(peers > 1, rewards, np.nan), np.zeros_like(groups))
    squares = unscored_to_zero(around_batch**2).sum(axis=0)
    deviation = np.sqrt(squares / np.maximum(count - ddof, 1))
    return unscored_to_zero(centred / (deviation + eps))


ALGORITHM = Algorithm(
    name="lite_ppo",
    estimator=lite_ppo,
    formula="(R − mean_g) / (std + eps), std over the batch",
    source="[Lite PPO](https://arxiv.org/abs/2508.08221)",
    peers="trl `scale_rewards: batch`; AReaL `adv_norm.std_level: batch`; ROLL `norm_std_type: batch`",
    prescribes={"aggregation": "token_mean"},
)
