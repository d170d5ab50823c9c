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

from ..types import FloatArray, IntArray
from .gdpo import NOTHING, Further, gdpo
from .group_statistics import (
    Table,
    centre,
    check_shapes,
    group_z_score,
    leave_one_out_z_score,
    unscored_to_zero,
)

Estimator: TypeAlias = Callable[..., Table]


def grpo(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
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


def dr_grpo(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """R - mean within each group: without the division, easy and hard prompts weigh the same. ``[N, K]``

    Dr. GRPO, https://arxiv.org/abs/2503.20783. Arguments as in :func:`grpo`; ``eps`` and ``ddof`` play no part.
    """
    check_shapes(values, weights, groups)
    centred, _ = centre(weighted_total(values, weights), groups)
    return unscored_to_zero(centred)


def rloo(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """R - mean of the other completions of the group = n / (n - 1) (R - mean). ``[N, K]``

    REINFORCE leave-one-out, https://arxiv.org/abs/2402.14740. Arguments as in :func:`grpo`; ``eps`` and ``ddof``
    play no part.
    """
    check_shapes(values, weights, groups)
    centred, count = centre(weighted_total(values, weights), groups)
    return unscored_to_zero(centred * count / np.maximum(count - 1, 1))


def rank_grpo(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """:func:`grpo` for rewards by rank: item k of a list is compared with item k of the other lists. ``[N, K]``

    Rank-GRPO, https://arxiv.org/abs/2510.20150.
    """
    return grpo(values, weights, groups, eps=eps, ddof=ddof)


def loo(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """(R - mean) / (std + eps) with mean and std of the other completions; not divided where that std is 0. ``[N, K]``

    NeMo RL's default (``use_leave_one_out_baseline``, eps 1e-6). Arguments as in :func:`grpo`.
    """
    check_shapes(values, weights, groups)
    return leave_one_out_z_score(weighted_total(values, weights), groups, eps=eps, ddof=ddof)


def reinforce_baseline(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """R - mean within each group, to be whitened over the tokens of the batch (``tokens.whiten_tokens``). ``[N, K]``

    REINFORCE++ with baseline, https://arxiv.org/abs/2501.03262. Arguments as in :func:`grpo`; ``eps`` and ``ddof`` play
    no part.
    """
    return dr_grpo(values, weights, groups, eps=eps, ddof=ddof)


def opo(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """R - mean of the group, where a completion counts once a token. ``[N, K]``

    OPO, https://arxiv.org/abs/2505.23585: the baseline of least variance if a gradient grows with length. Arguments as in
    :func:`grpo`; reads ``further.lengths``; ``eps`` and ``ddof`` play no part.
    """
    check_shapes(values, weights, groups)
    if further.lengths is None or further.lengths.shape != groups.shape:
        raise ValueError(f"opo needs the lengths [N] of {len(groups)} completions")
    centred, _ = centre(weighted_total(values, weights), groups, further.lengths)
    return unscored_to_zero(centred)


def pass_k(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """(R1 - R2) / (std + eps) for the best completion of a group, R2 the second best reward; 0 for the rest. ``[N, K]``

    The pass@k form of verl (``grpo_passk``) after https://arxiv.org/abs/2503.19595. Arguments as in :func:`grpo`.
    """
    check_shapes(values, weights, groups)
    total = weighted_total(values, weights)
    z_scores = group_z_score(total, groups, eps=eps, ddof=ddof)
    result = np.zeros_like(z_scores)
    for group in np.unique(groups):
        for column in range(total.shape[1]):
            rows = np.flatnonzero((groups == group) & ~np.isnan(total[:, column]))
            if len(rows) > 1:
                second, best = rows[np.argsort(total[rows, column], kind="stable")[-2:]]
                result[best, column] = z_scores[best, column] - z_scores[second, column]
    return result


def remax(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """R - reward of a greedy completion of the prompt. ``[N, K]``

    ReMax, https://arxiv.org/abs/2310.10505. Arguments as in :func:`grpo`; reads ``further.baselines``; ``eps`` and
    ``ddof`` play no part. A completion needs no others in its group.
    """
    check_shapes(values, weights, groups)
    if further.baselines is None or further.baselines.shape != groups.shape:
        raise ValueError(f"remax needs the rewards of greedy completions [N] of {len(groups)} completions")
    return unscored_to_zero(weighted_total(values, weights) - further.baselines[:, None])


def cpgd(
    values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int, further: Further = NOTHING
) -> Table:
    """(R - mean) / (std + eps) over the whole batch, not the group. ``[N, K]``

    CPGD as in LightRFT (biased std, eps 1e-6), which takes its micro-batch for the batch. The paper
    https://arxiv.org/abs/2505.12504 compares in groups: that is :func:`grpo` or :func:`dr_grpo`. Arguments as in
    :func:`grpo`.
    """
    check_shapes(values, weights, groups)
    return group_z_score(weighted_total(values, weights), np.zeros_like(groups), eps=eps, ddof=ddof)


ESTIMATORS: dict[str, Estimator] = {
    "grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo, "gdpo": gdpo, "rank_grpo": rank_grpo, "loo": loo,
    "reinforce_baseline": reinforce_baseline, "opo": opo, "pass_k": pass_k, "remax": remax, "cpgd": cpgd,
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
