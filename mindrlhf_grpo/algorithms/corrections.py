"""Train/rollout correction: weights for the difference between the engine's log-probs and the policy's own.

NumPy on the host. The weights multiply the *advantages*: every surrogate is linear in a non-negative factor of A, and
the KL, the entropy bonus and the denominators stay as they are. Legend: N completions, T tokens, w = exp(old_logps -
rollout_logps) of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..types import FloatArray

Level: TypeAlias = Literal["token", "sequence", "geometric"]
Mode: TypeAlias = Literal["truncate", "mask", "mask_tokens"]
LEVELS: tuple[Level, ...] = ("token", "sequence", "geometric")
MODES: tuple[Mode, ...] = ("truncate", "mask", "mask_tokens")

LOG_LIMIT = 20.0  # of every logarithm of a weight, as in verl: exp stays finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Weights of tokens from the gap between their log-probs, bounded.

    Attributes:
        level: what is bounded: w of a ``token``; the product over a ``sequence`` (TRL, verl, NeMo RL); or its
            ``geometric`` mean (open-instruct, AReaL). The last two are one weight for all tokens of a completion.
        mode: ``truncate`` brings a weight to the bounds (TIS); ``mask`` makes it 0 outside (IcePop); ``mask_tokens``
            does that too, but inside a token keeps its own w, unbounded (OpenRLHF's and NeMo RL's ``seq-mask-tis``).
        low, high: the bounds, on the weight itself.
    """

    level: Level = "token"
    mode: Mode = "truncate"
    low: float = 0.0
    high: float = 2.0

    def __post_init__(self) -> None:
        if self.level not in LEVELS or self.mode not in MODES:
            raise ValueError(
                f"level must be one of {LEVELS} and mode one of {MODES}, not {self.level!r}, {self.mode!r}"
            )
        if not 0 <= self.low < self.high:
            raise ValueError(f"low must be 0 or more and below high, not {self.low} and {self.high}")

    def weights(self, log_ratio: FloatArray, mask: FloatArray) -> NDArray[np.float64]:
        """``[N, T]`` from old_logps - rollout_logps ``[N, T]``; 1 where the mask is 0.

        Masked tokens do not affect the weight of a completion. Raises ValueError for arrays that differ in shape.
        """
        free = self.unbounded(log_ratio, mask)
        inside = (free >= self.low) & (free <= self.high)
        if self.mode == "truncate":
            bounded = np.clip(free, self.low, self.high)
        elif self.mode == "mask":
            bounded = np.where(inside, free, 0.0)
        else:
            bounded = np.where(inside, np.exp(limited(log_ratio, mask)), 0.0)
        return np.where(mask > 0, bounded, 1.0)

    def unbounded(self, log_ratio: FloatArray, mask: FloatArray) -> NDArray[np.float64]:
        """Weights at the level, before the bounds ``[N, T]``."""
        if log_ratio.ndim != 2 or log_ratio.shape != mask.shape:
            raise ValueError(f"log_ratio and mask must be [N, T] alike, not {log_ratio.shape} and {mask.shape}")
        logs = np.where(mask > 0, log_ratio, 0.0).astype(np.float64)
        if self.level != "token":
            total = logs.sum(axis=1, keepdims=True)
            if self.level == "geometric":
                total = total / np.maximum((mask > 0).sum(axis=1, keepdims=True), 1)
            logs = np.broadcast_to(total, logs.shape)
        return np.asarray(np.exp(np.clip(logs, -LOG_LIMIT, LOG_LIMIT)), dtype=np.float64)

    def statistics(self, log_ratio: FloatArray, mask: FloatArray) -> dict[str, float]:
        """Sums over trained tokens, to be added over ranks and divided by their number; ``max/`` by maximum.

        ``correction`` (bounded weight), ``correction_unbounded``, ``correction_changed`` (tokens outside the bounds),
        ``max/correction`` (largest unbounded weight).
        """
        trained = mask > 0
        free = self.unbounded(log_ratio, mask)
        outside = trained & ((free < self.low) | (free > self.high))
        return {
            "correction": float(self.weights(log_ratio, mask)[trained].sum()),
            "correction_unbounded": float(free[trained].sum()),
            "correction_changed": float(outside.sum()),
            "max/correction": float(free[trained].max(initial=0.0)),
        }


@dataclass(frozen=True, slots=True)
class NamedCorrection:
    """A correction that peers have a name for, and its row in the tables of the documentation."""

    correction: Correction
    formula: str
    source: str
    peers: str


# A run sets level, mode, low and high itself.
CORRECTIONS: dict[str, NamedCorrection] = {
    "tis": NamedCorrection(
        Correction(level="token", mode="truncate", high=2.0),
        "min(w, 2), w = exp(ℓo − ℓb) of a token",
        "verl, slime, open-instruct",
        "verl, slime, open-instruct: 2",
    ),
    "icepop": NamedCorrection(
        Correction(level="token", mode="mask", low=0.5, high=5.0),
        "w where 0.5 ≤ w ≤ 5, else 0",
        "openrlhf",
        "openrlhf `icepop`",
    ),
    "sequence_tis": NamedCorrection(
        Correction(level="sequence", mode="truncate", high=2.0), "min(Π w, 2)", "verl", "verl `sequence`"
    ),
    "sequence_mask": NamedCorrection(
        Correction(level="sequence", mode="mask", high=3.0),
        "Π w where it is ≤ 3, else 0",
        "trl",
        "trl `sequence_mask`, its default",
    ),
    "geometric_tis": NamedCorrection(
        Correction(level="geometric", mode="truncate", high=2.0),
        "min((Π w)^(1/n), 2)",
        "open-instruct, areal",
        "areal, open-instruct: mean of logs",
    ),
    "seq_mask_tis": NamedCorrection(
        Correction(level="geometric", mode="mask_tokens", low=0.5, high=5.0),
        "w of the token where 0.5 ≤ (Π w)^(1/n) ≤ 5, else 0",
        "openrlhf",
        "openrlhf `seq-mask-tis`; NeMo RL",
    ),
}


def limited(log_ratio: FloatArray, mask: FloatArray) -> NDArray[np.float64]:
    """Log-ratios of tokens within ±20, 0 where the mask is 0."""
    return np.clip(np.where(mask > 0, log_ratio, 0.0).astype(np.float64), -LOG_LIMIT, LOG_LIMIT)


def entropy_mask(
    entropies: FloatArray,
    mask: FloatArray,
    quantile: float,
    *,
    by_row: bool = False,
    gathered: FloatArray | None = None,
) -> NDArray[np.float32]:
    """1 at trained tokens whose entropy is at least that quantile of all trained tokens' ``[N, T]`` float32.

    "Beyond the 80/20 rule", https://arxiv.org/abs/2506.01939: a share q of tokens is kept by ``quantile`` = 1 - q. TRL
    multiplies the surrogate with it and keeps KL and denominators: multiply the advantages. LightRFT trains the kept
    tokens only: multiply the mask before ``batching.loss_weights``.

    Args:
        by_row: the quantile of each completion by itself.
        gathered: entropies of the trained tokens of all ranks, any shape; None: these rows are the whole batch.

    Raises:
        ValueError: a quantile outside 0..1, or a trained token without a finite entropy.
    """
    if not 0 <= quantile <= 1 or entropies.ndim != 2 or entropies.shape != mask.shape:
        raise ValueError(
            f"quantile must be in 0..1 and the arrays [N, T], not {quantile}, {entropies.shape}, {mask.shape}"
        )
    trained = mask > 0
    compared = np.where(trained, entropies, -np.inf)
    all_ranks = entropies[trained] if gathered is None else gathered
    if not (np.isfinite(all_ranks).all() and np.isfinite(entropies[trained]).all()):
        raise ValueError("the entropy of a trained token is not finite")
    selected = trained
    if by_row:
        selected = np.zeros_like(trained)
        for row in np.flatnonzero(trained.any(axis=1)):
            selected[row] = compared[row] >= np.quantile(entropies[row][trained[row]], quantile)
    elif all_ranks.size:
        selected = compared >= np.quantile(all_ranks, quantile)
    return selected.astype(np.float32)
