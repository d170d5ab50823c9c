"""One total reward per completion or item from its components. Legend: N completions, F reward components, K segments."""

from __future__ import annotations

import numpy as np

from ..types import FloatArray
from .group_statistics import Table


def total_reward(values: FloatArray, weights: FloatArray) -> Table:
    """The weighted total itself ``[N, K]``, 0 for a completion without any reward; for token-level returns."""
    return np.nan_to_num(weighted_total(values, weights))


def weighted_total(values: FloatArray, weights: FloatArray) -> Table:
    """Sum over components of weight times reward ``[N, K]``; NaN where no component applies."""
    total = np.nansum(values * weights[None, :, None], axis=1, dtype=np.float64)
    return np.where(np.isnan(values).all(axis=1), np.nan, total)


def kl_penalised(total: FloatArray, kl_sums: FloatArray, coef: float) -> Table:
    """Total reward ``[N, K]`` minus ``coef`` times the KL of each completion, ``[N]`` summed over its tokens.

    The KL takes part in the group statistics, as in verl's ``use_kl_in_reward``.
    """
    if total.ndim != 2 or kl_sums.shape != total.shape[:1]:
        raise ValueError(f"total must be [N, K] and kl_sums [N], not {total.shape} and {kl_sums.shape}")
    return np.asarray(total - coef * kl_sums[:, None], dtype=np.float64)
