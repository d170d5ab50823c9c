"""Token-level rewards, returns and advantages, and their whitening over the tokens of the global batch.

Pure NumPy in float64 on the rows of one rank. Tokens past a completion's length are 0 in every result, whatever they
hold in an argument. Legend: N completions, T tokens.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..types import FloatArray, IntArray
from .group_statistics import Table

WhitenForm: TypeAlias = Literal["verl", "openrlhf"]
WHITEN_FORMS: tuple[WhitenForm, ...] = ("verl", "openrlhf")
WHITEN_EPS = 1e-8


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
        shape = None if segments is None else segments.shape
        raise ValueError(f"advantages of {count} segments need segments [{rows}, {width}], not {shape}")
    inside &= segments >= 0
    if int(segments[inside].max(initial=0)) >= count:
        raise ValueError(f"a token is in segment {int(segments[inside].max())}, but there are advantages for {count}")
    picked = np.take_along_axis(advantages, np.where(inside, segments, 0).astype(np.int64), axis=1)
    return np.where(inside, picked, 0.0).astype(np.float32)


def token_rewards(scores: FloatArray, kl: FloatArray, kl_coef: float, lengths: IntArray) -> Table:
    """-kl_coef KL at each token, plus the score at the last one ``[N, T]``.

    A policy that gives its token a higher log-prob than the reference has KL > 0 (k1) and loses reward. A completion
    without any token has nowhere to put its score. InstructGPT, https://arxiv.org/abs/2203.02155.

    Args:
        scores: reward of each completion ``[N]``.
        kl: estimate of KL(policy || reference) at each token ``[N, T]``, see ``losses.kl``.

    Raises:
        ValueError: a shape does not fit, or a score is not finite.
    """
    inside = inside_of(kl, lengths)
    if scores.shape != lengths.shape or not np.isfinite(scores).all():
        raise ValueError(f"scores must be {len(lengths)} finite numbers [N], not {scores}")
    rewards = np.where(inside, -kl_coef * kl.astype(np.float64), 0.0)
    rows = np.flatnonzero(lengths > 0)
    rewards[rows, lengths[rows] - 1] += scores[rows]
    return rewards


def gae(rewards: FloatArray, values: FloatArray, lengths: IntArray, gamma: float, lam: float) -> tuple[Table, Table]:
    """Generalised advantage estimates and returns, each ``[N, T]``.

    With delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1} and R_t = A_t + V_t; V is 0 behind the
    last token. https://arxiv.org/abs/1506.02438

    Args:
        rewards: from :func:`token_rewards` ``[N, T]``.
        values: of the critic, before each token ``[N, T]``.
    """
    inside = inside_of(rewards, lengths)
    if values.shape != rewards.shape:
        raise ValueError(f"values must be [N, T] like rewards {rewards.shape}, not {values.shape}")
    reward, value = (np.where(inside, x, 0.0).astype(np.float64) for x in (rewards, values))
    following = np.concatenate([value[:, 1:], np.zeros((len(value), 1))], axis=1)
    advantages = discounted(np.where(inside, reward + gamma * following - value, 0.0), gamma * lam)
    return advantages, np.where(inside, advantages + value, 0.0)


def reinforce_pp(rewards: FloatArray, lengths: IntArray, gamma: float) -> Table:
    """G_t = r_t + gamma G_{t+1} ``[N, T]``, to be whitened over the batch. REINFORCE++, https://arxiv.org/abs/2501.03262"""
    return discounted(np.where(inside_of(rewards, lengths), rewards, 0.0).astype(np.float64), gamma)


def moments(advantages: FloatArray, mask: FloatArray) -> Table:
    """Number of trained tokens, their sum, and their sum of squares ``[3]``: add up over ranks for the global batch."""
    trained = advantages[mask > 0].astype(np.float64)
    return np.asarray([trained.size, trained.sum(), np.square(trained).sum()], dtype=np.float64)


def whiten_tokens(advantages: FloatArray, mask: FloatArray, moments: FloatArray, form: WhitenForm = "verl") -> Table:
    """Advantages of trained tokens brought to mean 0 and variance 1 ``[N, T]``, 0 at the others.

    ``verl``: (A - mean) / sqrt(var + 1e-8), var unbiased. ``openrlhf``: (A - mean) / sqrt(max(var, 1e-8)), var biased.
    With fewer than two tokens all are 0.

    Args:
        moments: of the global batch, see :func:`moments`.
    """
    if form not in WHITEN_FORMS:
        raise ValueError(f"whitening {form!r} is unknown; there are {', '.join(WHITEN_FORMS)}")
    number, total, squares = (float(x) for x in moments)
    if number < 2:
        return np.zeros(advantages.shape, dtype=np.float64)
    mean = total / number
    biased = max(squares / number - mean**2, 0.0)
    variance = biased * number / (number - 1) + WHITEN_EPS if form == "verl" else max(biased, WHITEN_EPS)
    centred = np.where(mask > 0, advantages, mean).astype(np.float64) - mean
    return np.asarray(centred / np.sqrt(variance), dtype=np.float64)


def inside_of(array: FloatArray, lengths: IntArray) -> NDArray[np.bool_]:
    """True at each place of ``[N, T]`` before the end of its completion."""
    if array.ndim != 2 or lengths.shape != array.shape[:1] or int(lengths.max(initial=0)) > array.shape[1]:
        raise ValueError(f"token arrays must be [N, T] and lengths [N] up to T, not {array.shape} and {lengths}")
    return np.asarray(np.arange(array.shape[1])[None, :] < lengths[:, None], dtype=np.bool_)


def discounted(steps: Table, factor: float) -> Table:
    """x_t + factor x_{t+1} + factor² x_{t+2} + ... of each row ``[N, T]``."""
    sums = np.zeros_like(steps)
    running = np.zeros(len(steps))
    for place in reversed(range(steps.shape[1])):
        running = steps[:, place] + factor * running
        sums[:, place] = running
    return sums
