"""CISPO: GRPO's advantages, and REINFORCE weighted by the clipped ratio held constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses import PolicyLoss
from ..algorithm import Algorithm
from .grpo import FORMULA, grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class CispoPolicyLoss(PolicyLoss):
    """CISPO: l = -sg(clip(r, low, high)) A logps. No token loses its gradient. https://arxiv.org/abs/2506.13585

    Attributes:
        low, high: bounds of the ratio itself. verl, slime, NeMo: 1 - epsilon_low and 1 + epsilon_high; open-instruct: 0
            and 1 + epsilon_high; TRL: 0 and epsilon_high, so that its 0.2 would bound every ratio by 0.2.
    """

    low: float = 0.0
    high: float = 5.0

    name: ClassVar[str] = "cispo"
    formula: ClassVar[str] = "−sg(clip(r, low, high)) A ℓ"
    source: ClassVar[str] = "[CISPO](https://arxiv.org/abs/2506.13585)"
    peers: ClassVar[str] = "verl, slime, NeMo RL: 1 − ε_l, 1 + ε_h; open-instruct: 0, 1 + ε_h; trl: 0, ε_h"
    unused: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "dual_clip", "delta")

    def __post_init__(self) -> None:
        PolicyLoss.__post_init__(self)
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")

    def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
        """Weighted REINFORCE loss of each token ``[N, T]``."""
        return -xp.stop_gradient(xp.clip(ratio, self.low, self.high)) * advantages * logps

    def bounded(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, ones: Any) -> tuple[Any, Any]:
        """Tokens whose weight is bounded, whatever the sign of their advantage."""
        return xp.where(ratio < self.low, ones, 0.0), xp.where(ratio > self.high, ones, 0.0)


ALGORITHM = Algorithm(
    name="cispo",
    estimator=grpo,
    formula=FORMULA,
    source="[CISPO](https://arxiv.org/abs/2506.13585)",
    peers="trl, verl, slime, NeMo RL, open-instruct",
    loss=CispoPolicyLoss,
)
