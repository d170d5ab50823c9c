"""GDPO: every reward component is normalised in its group, their sum over the batch. Its versions differ in the second.

Legend: N completions, F reward components, K segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..types import FloatArray, IntArray
from .group_statistics import Table, centre, check_shapes, group_z_score, leave_one_out_z_score

Whitening: TypeAlias = Literal["samples", "tokens", "scale"]
WHITENINGS: tuple[Whitening, ...] = ("samples", "tokens", "scale")

WHITEN_EPS = 1e-4  # of the second division
WHITEN_TOKENS_EPS = 1e-8  # the same in its token-weighted form, added to the variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Further:
    """What only some estimators read.

    Attributes:
        lengths: tokens of each completion ``[N]``; of opo, and of gdpo whitened over tokens.
        baselines: reward of a greedy completion of the same prompt ``[N]``; of remax.
        whitening: gdpo's second step.
    """

    lengths: IntArray | None = None
    baselines: FloatArray | None = None
    whitening: Whitening = "samples"


NOTHING = Further()


def gdpo(
    values: FloatArray,
    weights: FloatArray,
    groups: IntArray,
    *,
    eps: float,
    ddof: int,
    token_counts: IntArray | None = None,
    further: Further = NOTHING,
) -> Table:
    """Each component is z-scored in its group, the weighted sum is then normalised over the batch. ``[N, K]``

    GDPO, https://arxiv.org/abs/2601.05242. The second step, over completions (and segments), by ``further.whitening``:

    - ``samples``: (s - mean) / (std + 1e-4). The authors and TRL; with rewards by item over completions and items.
    - ``tokens`` (K = 1): (s - mean) / sqrt(var + 1e-8), where a completion counts once a token, as in verl. That mean
      is not 0, so a group without any difference in rewards gets an advantage too; the mean over completions is 0, as
      z-scores cancel.
    - ``scale``: s / std, with z-scores that compare each completion with the others (leave-one-out), as in NeMo RL.

    Args:
        token_counts: lengths ``[N]``, which also choose ``tokens``.

    Other arguments as in :func:`grpo`.
    """
    check_shapes(values, weights, groups)
    if further.whitening not in WHITENINGS:
        raise ValueError(f"whitening {further.whitening!r} is unknown; there are {', '.join(WHITENINGS)}")
    scale = further.whitening == "scale"
    z_score = component_leave_one_out if scale else group_z_score
    total = np.einsum("nfk,f->nk", z_score(values, groups, eps=eps, ddof=ddof), weights)
    _, peers = centre(values, groups)
    scored = np.asarray((~np.isnan(values) & (peers > 1)).any(axis=1), dtype=np.bool_)
    if scale:
        deviation = total[scored].std(ddof=ddof) if scored.sum() > ddof else 0.0
        return np.asarray(total / deviation if deviation > 0 else total, dtype=np.float64)
    if further.whitening == "samples" and token_counts is None:
        return whiten(total, scored, ddof=ddof)
    counts = further.lengths if token_counts is None else token_counts
    if counts is None:
        raise ValueError("whitening over tokens needs the lengths of the completions")
    if counts.shape != (len(total),) or total.shape[1] != 1:
        raise ValueError(f"token_counts {counts.shape} must be [N] of rewards [N, F, 1], not {values.shape}")
    return whiten_by_tokens(total, np.where(scored, counts[:, None], 0))


def component_leave_one_out(values: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """Leave-one-out z-score of each component ``[N, F, K]``."""
    flat = values.reshape(len(values), values.shape[1] * values.shape[2])
    return leave_one_out_z_score(flat, groups, eps=eps, ddof=ddof).reshape(values.shape)


def whiten(scores: Table, scored: NDArray[np.bool_], *, ddof: int) -> Table:
    """(s - mean) / (std + 1e-4) over the scored entries of ``[N, K]``, 0 elsewhere and where fewer than two are."""
    if scored.sum() < 2:
        return np.zeros_like(scores)
    centred = scores - scores[scored].mean()
    return np.where(scored, centred / (scores[scored].std(ddof=ddof) + WHITEN_EPS), 0.0)


def whiten_by_tokens(scores: Table, tokens: NDArray[np.int64]) -> Table:
    """Whitening of ``[N, 1]`` where each entry counts once a token; the variance is the unbiased one of tokens."""
    number = tokens.sum()
    if number < 2:
        return np.zeros_like(scores)
    mean = (scores * tokens).sum() / number
    variance = ((scores - mean) ** 2 * tokens).sum() / (number - 1)
    return np.where(tokens > 0, (scores - mean) / np.sqrt(variance + WHITEN_TOKENS_EPS), 0.0)
