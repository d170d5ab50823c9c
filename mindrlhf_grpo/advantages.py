"""Advantage estimators: from the rewards of a group to one number a completion, or a segment of it.

Pure NumPy in float64, on the host: the table of a global batch is small, so every rank computes the same
numbers. A reward of NaN means "not applicable"; a completion without any reward (unscored) takes no part in
the statistics and gets advantage 0, and so does a completion left alone in its group.
Legend: N completions, F reward components, K segments (1: the whole completion), M groups, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .types import FloatArray, IntArray

Table: TypeAlias = NDArray[np.float64]
Estimator: TypeAlias = Callable[..., Table]

WHITEN_EPS = 1e-4  # GDPO's second division, over the batch
WHITEN_TOKENS_EPS = 1e-8  # the same in its token-weighted form, added to the variance


def grpo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean) / (std + eps) within each group, for each segment by itself. Exactly 0 where all rewards are equal.

    DeepSeekMath, https://arxiv.org/abs/2402.03300.

    Args:
        values: rewards ``[N, F, K]``.
        weights: factor of each component in their sum ``[F]``.
        groups: group of each completion ``[N]``, any integers.
        eps: added to the standard deviation.
        ddof: 1 divides the squares by n - 1 (sample), 0 by n (population).

    Returns:
        ``[N, K]``.

    Raises:
        ValueError: a shape does not fit, or a reward is infinite.
    """
    check_shapes(values, weights, groups)
    return group_z_score(weighted_total(values, weights), groups, eps=eps, ddof=ddof)


def dr_grpo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """R - mean within each group: without the division, easy and hard prompts weigh the same. ``[N, K]``

    Dr. GRPO, https://arxiv.org/abs/2503.20783. Arguments as in :func:`grpo`; ``eps`` and ``ddof`` play no part.
    """
    check_shapes(values, weights, groups)
    centred, _ = centre(weighted_total(values, weights), groups)
    return unscored_to_zero(centred)


def rloo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """R - mean of the other completions of the group = n / (n - 1) (R - mean). ``[N, K]``

    REINFORCE leave-one-out, https://arxiv.org/abs/2402.14740. Arguments as in :func:`grpo`; ``eps`` and ``ddof``
    play no part.
    """
    check_shapes(values, weights, groups)
    centred, count = centre(weighted_total(values, weights), groups)
    return unscored_to_zero(centred * count / np.maximum(count - 1, 1))


def gdpo(
    values: FloatArray,
    weights: FloatArray,
    groups: IntArray,
    *,
    eps: float,
    ddof: int,
    token_counts: IntArray | None = None,
) -> Table:
    """Each component is z-scored in its group, the weighted sum is then normalised over the batch. ``[N, K]``

    GDPO, https://arxiv.org/abs/2601.05242. The second normalisation is (s - mean) / (std + 1e-4) over completions
    and segments. With ``token_counts`` ``[N]`` (K = 1) it is verl's: mean and variance weigh each completion by
    its tokens, (s - mean) / sqrt(var + 1e-8). That mean is not 0, so a group without any difference in rewards
    gets an advantage too; the mean over completions is 0, as z-scores cancel. Other arguments as in :func:`grpo`.
    """
    check_shapes(values, weights, groups)
    scores = group_z_score(values, groups, eps=eps, ddof=ddof)
    _, peers = centre(values, groups)
    scored = np.asarray((~np.isnan(values) & (peers > 1)).any(axis=1), dtype=np.bool_)
    total = np.einsum("nfk,f->nk", scores, weights)
    if token_counts is None:
        return whiten(total, scored, ddof=ddof)
    if token_counts.shape != (len(total),) or total.shape[1] != 1:
        raise ValueError(f"token_counts {token_counts.shape} must be [N] of rewards [N, F, 1], not {values.shape}")
    return whiten_tokens(total, np.where(scored, token_counts[:, None], 0))


def rank_grpo(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """:func:`grpo` for rewards by rank: item k of a list is compared with item k of the other lists. ``[N, K]``

    Rank-GRPO, https://arxiv.org/abs/2510.20150.
    """
    return grpo(values, weights, groups, eps=eps, ddof=ddof)


ESTIMATORS: dict[str, Estimator] = {
    "grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo, "gdpo": gdpo, "rank_grpo": rank_grpo,
}  # fmt: skip


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


def to_tokens(advantages: FloatArray, lengths: IntArray, width: int, segments: IntArray | None = None) -> FloatArray:
    """Advantages of completions or segments ``[N, K]`` put on their tokens ``[N, width]`` float32.

    With K = 1 every token of a completion gets its advantage. Else ``segments`` ``[N, width]`` names the segment
    of each token; -1 (no segment) and positions past ``lengths`` ``[N]`` get 0.

    Raises:
        ValueError: a shape does not fit, or a token's segment is not below K.
    """
    if advantages.ndim != 2 or lengths.shape != advantages.shape[:1]:
        raise ValueError(f"advantages must be [N, K] and lengths [N], not {advantages.shape} and {lengths.shape}")
    rows, count = advantages.shape
    inside = np.arange(width)[None, :] < lengths[:, None]
    if count == 1:
        return np.where(inside, advantages, 0.0).astype(np.float32)
    if segments is None or segments.shape != (rows, width):
        given = None if segments is None else segments.shape
        raise ValueError(f"advantages of {count} segments need segments [{rows}, {width}], not {given}")
    inside &= segments >= 0
    if int(segments[inside].max(initial=0)) >= count:
        raise ValueError(f"a token is in segment {int(segments[inside].max())}, but there are advantages for {count}")
    picked = np.take_along_axis(advantages, np.where(inside, segments, 0).astype(np.int64), axis=1)
    return np.where(inside, picked, 0.0).astype(np.float32)


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


def centre(rewards: FloatArray, groups: IntArray) -> tuple[Table, Table]:
    """R - mean in each group and column of ``[N, ...]`` (NaN stays NaN), and how many entries each mean is of.

    Exactly 0 where all are equal: the mean of equal floats may differ from them in the last bit.
    """
    member = np.unique(groups, return_inverse=True)[1]
    scored = ~np.isnan(rewards)
    count = group_sum(scored.astype(np.float64), member)
    mean = group_sum(np.where(scored, rewards, 0.0), member) / np.maximum(count, 1)
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


def whiten(scores: Table, scored: NDArray[np.bool_], *, ddof: int) -> Table:
    """(s - mean) / (std + 1e-4) over the scored entries of ``[N, K]``, 0 elsewhere and where fewer than two are."""
    if scored.sum() < 2:
        return np.zeros_like(scores)
    centred = scores - scores[scored].mean()
    return np.where(scored, centred / (scores[scored].std(ddof=ddof) + WHITEN_EPS), 0.0)


def whiten_tokens(scores: Table, tokens: NDArray[np.int64]) -> Table:
    """Whitening of ``[N, 1]`` where each entry counts once a token; the variance is the unbiased one of tokens."""
    number = tokens.sum()
    if number < 2:
        return np.zeros_like(scores)
    mean = (scores * tokens).sum() / number
    variance = ((scores - mean) ** 2 * tokens).sum() / (number - 1)
    return np.where(tokens > 0, (scores - mean) / np.sqrt(variance + WHITEN_TOKENS_EPS), 0.0)
