"""GDPO: each reward component is normalised in its group, then their sum over the batch; peers differ in the second step.

Legend: N completions, F reward components, K segments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...advantages import WHITENINGS, Table, Whitening, centre, check_shapes, group_z_score, leave_one_out_z_score
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm

WHITEN_EPS = 1e-4  # of the second division
WHITEN_TOKENS_EPS = 1e-8  # the same in its token-weighted form, added to the variance


def gdpo(
    values: FloatArray,
    weights: FloatArray,
    groups: IntArray,
    *,
    eps: float,
    ddof: int,
    whitening: Whitening = "samples",
    lengths: IntArray | None = None,
) -> Table:
    """Each component is z-scored in its group, the weighted sum is then normalised over the batch. ``[N, K]``

    GDPO, https://arxiv.org/abs/2601.05242. The second step, over completions (and segments), by ``whitening``:

    - ``samples``: (s - mean) / (std + 1e-4). The authors and TRL; with rewards by item over completions and items.
    - ``tokens`` (K = 1): (s - mean) / sqrt(var + 1e-8), in which a completion counts once per token, as in verl. That mean
      is not 0, so a group without any difference in rewards gets an advantage too; the mean over completions is 0, as
      z-scores cancel.
    - ``scale``: s / std, with z-scores that compare each completion with the others (leave-one-out), as in NeMo RL.

    Args:
        lengths: tokens of each completion ``[N]``, which ``tokens`` reads.

    Other arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    if whitening not in WHITENINGS:
        raise ValueError(f"whitening {whitening!r} is unknown; there are {', '.join(WHITENINGS)}")
    scale = whitening == "scale"
    z_score = component_leave_one_out if scale else group_z_score
    total = np.einsum("nfk,f->nk", z_score(values, groups, eps=eps, ddof=ddof), weights)
    _, peers = centre(values, groups)
    scored = np.asarray((~np.isnan(values) & (peers > 1)).any(axis=1), dtype=np.bool_)
    if scale:
        deviation = total[scored].std(ddof=ddof) if scored.sum() > ddof else 0.0
        return np.asarray(total / deviation if deviation > 0 else total, dtype=np.float64)
    if whitening == "samples":
        return whiten(total, scored, ddof=ddof)
    if lengths is None:
        raise ValueError("whitening over tokens needs the lengths of the completions")
    if lengths.shape != (len(total),) or total.shape[1] != 1:
        raise ValueError(f"lengths {lengths.shape} must be [N] of rewards [N, F, 1], not {values.shape}")
    return whiten_by_tokens(total, np.where(scored, lengths[:, None], 0))


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
    """Whitening of ``[N, 1]`` in which each entry counts once per token; the variance is the unbiased one of tokens."""
    number = tokens.sum()
    if number < 2:
        return np.zeros_like(scores)
    mean = (scores * tokens).sum() / number
    variance = ((scores - mean) ** 2 * tokens).sum() / (number - 1)
    return np.where(tokens > 0, (scores - mean) / np.sqrt(variance + WHITEN_TOKENS_EPS), 0.0)


ALGORITHM = Algorithm(
    name="gdpo",
    estimator=gdpo,
    formula="s = Σ_f w_f (R_f − mean_g,f) / (std_g,f + eps); then (s − mean) / (std + 1e-4) over the batch",
    source="[GDPO](https://arxiv.org/abs/2601.05242)",
    peers="trl `samples`; verl `tokens`; NeMo RL `scale`",
    per_component=True,
)
