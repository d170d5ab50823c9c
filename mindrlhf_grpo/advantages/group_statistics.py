"""Statistics of groups of rewards. NaN means "no reward" and takes no part. Legend: N completions, M groups."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..types import FloatArray, IntArray

Table: TypeAlias = NDArray[np.float64]


def check_shapes(values: FloatArray, weights: FloatArray, groups: IntArray) -> None:
    """Refuse what is not ``[N, F, K]``, ``[F]``, ``[N]``, and infinite rewards."""
    if values.ndim != 3 or weights.shape != values.shape[1:2] or groups.shape != values.shape[:1]:
        raise ValueError(
            f"values must be [N, F, K], weights [F], groups [N], not {values.shape}, {weights.shape}, {groups.shape}"
        )
    if np.isinf(values).any():
        raise ValueError(f"infinite reward in row {int(np.argwhere(np.isinf(values))[0, 0])}")


def group_z_score(rewards: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean) / (std + eps) in each group over the scored entries of each column of ``[N, ...]``, else 0."""
    centred, count = centre(rewards, groups)
    member = np.unique(groups, return_inverse=True)[1]
    squares = group_sum(unscored_to_zero(centred) ** 2, member)[member]
    deviation = np.sqrt(squares / np.maximum(count - ddof, 1))
    return unscored_to_zero(centred / (deviation + eps))


def leave_one_out_z_score(rewards: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean) / (std + eps) with mean and std of the *other* scored entries of the group and column of ``[N, K]``.

    Not divided where that std is 0, or where there is a single other.
    """
    result = np.zeros(rewards.shape, dtype=np.float64)
    for group in np.unique(groups):
        for column in range(rewards.shape[1]):
            rows = np.flatnonzero((groups == group) & ~np.isnan(rewards[:, column]))
            if len(rows) < 2:
                continue
            entries = rewards[rows, column].astype(np.float64)
            places = np.arange(len(rows) - 1)
            others = entries[places + (places >= np.arange(len(rows))[:, None])]  # [n, n - 1]
            # the mean of equal floats may differ from them in the last bit
            flat = np.ptp(others, axis=1) == 0
            mean = np.where(flat, others[:, 0], others.mean(axis=1))
            deviation = np.sqrt(np.square(others - mean[:, None]).sum(axis=1) / max(len(rows) - 1 - ddof, 1))
            result[rows, column] = (entries - mean) / np.where(flat, 1.0, deviation + eps)
    return result


def centre(rewards: FloatArray, groups: IntArray, shares: FloatArray | IntArray | None = None) -> tuple[Table, Table]:
    """R - mean in each group and column of ``[N, ...]`` (NaN stays NaN), and the number of entries behind each mean.

    With ``shares`` ``[N]`` each row counts that often in the mean. Exactly 0 where all are equal: the mean of equal floats
    may differ from them in the last bit.
    """
    member = np.unique(groups, return_inverse=True)[1]
    scored = ~np.isnan(rewards)
    count = group_sum(scored.astype(np.float64), member)
    if shares is None:
        mean = group_sum(np.where(scored, rewards, 0.0), member) / np.maximum(count, 1)
    else:
        share = shares.astype(np.float64).reshape(-1, *[1] * (rewards.ndim - 1)) * scored
        total = group_sum(share, member)
        mean = group_sum(np.where(scored, rewards, 0.0) * share, member) / np.where(total > 0, total, 1.0)
    differs = spread(rewards, member, len(count))[member] > 0
    centred = np.where(differs | ~scored, rewards - mean[member], 0.0)
    return centred, count[member]


def unscored_to_zero(entries: Table) -> Table:
    """NaN becomes 0."""
    return np.where(np.isnan(entries), 0.0, entries)


def group_sum(entries: FloatArray, member: IntArray) -> Table:
    """Sum ``[M, ...]`` of the rows ``[N, ...]`` of each group."""
    sums = np.zeros((int(member.max(initial=-1)) + 1, *entries.shape[1:]), dtype=np.float64)
    np.add.at(sums, member, entries)
    return sums


def spread(rewards: FloatArray, member: IntArray, groups: int) -> Table:
    """Largest minus smallest scored entry ``[M, ...]`` of each group and column; negative where none is scored."""
    scored = ~np.isnan(rewards)
    highest: Table = np.full((groups, *rewards.shape[1:]), -np.inf)
    lowest: Table = np.full((groups, *rewards.shape[1:]), np.inf)
    np.maximum.at(highest, member, np.where(scored, rewards, -np.inf))
    np.minimum.at(lowest, member, np.where(scored, rewards, np.inf))
    return highest - lowest
