"""GPG, Group Policy Gradient: the plain policy gradient with a group baseline. https://arxiv.org/abs/2504.02546

A = alpha (R - mean of the group), loss -A log p per token: no ratio, no clip, no reference, no division by a standard
deviation. alpha = B / (B - M) makes up for the M of B groups whose rewards are all equal and which give no gradient.
Legend: N completions, K segments (1: the completion as one), T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mindrlhf_grpo.algorithms.algorithm import Algorithm


def advantages(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return alpha (R - mean) within each group ``[N, K]``.

    Args:
        rewards: weighted sum of the reward components ``[N, K]``; NaN for a completion without a reward.
        groups: number of the prompt of each completion ``[N]``.
    """
    centred = np.zeros_like(rewards)
    for group in np.unique(groups):
        rows = groups == group
        if np.isfinite(rewards[rows]).any():
            centred[rows] = np.nan_to_num(rewards[rows] - np.nanmean(rewards[rows], axis=0))
    alive = len(np.unique(groups[np.abs(centred).max(axis=1) > 1e-12]))
    return centred * len(np.unique(groups)) / max(1, alive)


def policy_gradient(xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
    """Loss of each token ``[N, T]``, over the array namespace of whichever backend runs it."""
    return -advantages * logps


GPG = Algorithm(name="gpg", estimator=advantages, loss=policy_gradient, prescribes={"aggregation": "token_mean"})
