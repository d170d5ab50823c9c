"""SAPO: GRPO's advantages, and a smooth gate in place of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses import PolicyLoss
from ..algorithm import Algorithm
from .grpo import FORMULA, grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class SapoPolicyLoss(PolicyLoss):
    """SAPO: a smooth gate in place of the clip, l = -(4 / tau) sigmoid(tau (r - 1)) A. https://arxiv.org/abs/2511.20347

    Attributes:
        tau_positive, tau_negative: how fast the gate closes where A > 0, and elsewhere.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05

    name: ClassVar[str] = "sapo"
    formula: ClassVar[str] = "−(4/τ) σ(τ (r − 1)) A, τ by the sign of A"
    source: ClassVar[str] = "[SAPO](https://arxiv.org/abs/2511.20347)"
    peers: ClassVar[str] = "trl, verl: τ 1.0 and 1.05"
    unused: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "dual_clip", "delta")

    def __post_init__(self) -> None:
        PolicyLoss.__post_init__(self)
        if min(self.tau_positive, self.tau_negative) <= 0:
            raise ValueError(f"tau must be above 0, not {self.tau_positive} and {self.tau_negative}")

    def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
        """Gated loss of each token ``[N, T]``."""
        tau = xp.where(advantages > 0, self.tau_positive * xp.ones_like(ratio), self.tau_negative)
        return -4.0 / (tau * (1.0 + xp.exp(-tau * (ratio - 1.0)))) * advantages

    def bounded(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, ones: Any) -> tuple[Any, Any]:
        """The gate has no bound."""
        return xp.zeros_like(ones), xp.zeros_like(ones)


ALGORITHM = Algorithm(
    name="sapo",
    estimator=grpo,
    formula=FORMULA,
    source="[SAPO](https://arxiv.org/abs/2511.20347)",
    peers="trl, verl",
    loss=SapoPolicyLoss,
)
