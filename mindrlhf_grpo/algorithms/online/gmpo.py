"""GMPO: GRPO's advantages, and the geometric mean of the clipped ratios of a completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses import PolicyLoss, row_mean
from ..algorithm import Algorithm
from .grpo import FORMULA, grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricPolicyLoss(PolicyLoss):
    """GMPO: l = -A exp(mean of clipped log r over the completion). https://arxiv.org/abs/2507.20673

    log r is clipped to [-clip_low, clip_high] on the side that the sign of A makes pessimistic, token by token; A is
    meant to be one number per completion, and a token where it is 0 takes the sign of the others. verl's ``geo_mean`` is
    this with ``aggregation: sequence_mean`` and bounds of 0.2.
    """

    clip_low: float = 0.4
    clip_high: float = 0.4

    name: ClassVar[str] = "gmpo"
    formula: ClassVar[str] = "−exp(mean of clipped log r) A"
    source: ClassVar[str] = "[GMPO](https://arxiv.org/abs/2507.20673)"
    peers: ClassVar[str] = "verl `geo_mean`: bounds 0.2, `aggregation: sequence_mean`"
    own_defaults: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high")
    unused: ClassVar[tuple[str, ...]] = ("dual_clip", "delta")

    def ratio(self, xp: Any, log_ratio: Any, advantages: Any, tensors: Mapping[str, Any]) -> Any:
        """Geometric mean of the clipped ratios ``[N, T]``."""
        trained = xp.where(tensors["mask"] > 0, xp.ones_like(log_ratio), 0.0)
        of_row = xp.sum(advantages, axis=1, keepdims=True) * xp.ones_like(log_ratio)
        # a correction may set single advantages to 0: that must not move the ratio of the completion
        sign = xp.sign(xp.where(advantages == 0, of_row, advantages))
        clipped = xp.clip(log_ratio, -self.clip_low, self.clip_high)
        bounded = sign * xp.minimum(sign * log_ratio, sign * clipped)
        return xp.exp(row_mean(xp, bounded, trained) * trained)

    def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
        """Loss of each token ``[N, T]``."""
        return -ratio * advantages

    def bounded(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, ones: Any) -> tuple[Any, Any]:
        """Tokens whose log-ratio is clipped."""
        low = xp.where(advantages < 0, ones, 0.0)
        high = xp.where(advantages > 0, ones, 0.0)
        return xp.where(log_ratio < -self.clip_low, low, 0.0), xp.where(log_ratio > self.clip_high, high, 0.0)


ALGORITHM = Algorithm(
    name="gmpo",
    estimator=grpo,
    formula=FORMULA,
    source="[GMPO](https://arxiv.org/abs/2507.20673)",
    peers="verl `geo_mean`",
    loss=GeometricPolicyLoss,
    prescribes={"aggregation": "sequence_mean"},
)
