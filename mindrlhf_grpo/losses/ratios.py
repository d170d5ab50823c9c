"""Policy losses by the level of their ratio and by their surrogate; KL, entropy and sums are those of ``PolicyLoss``.

Legend: N completions, T tokens, r the ratio of a token, n its completion's trained tokens, sg: held constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .policy import PolicyLoss


def row_mean(xp: Any, entries: Any, members: Any) -> Any:
    """Mean over the members (1, else 0) of each row ``[N, 1]`` of ``[N, T]``; 0 without any."""
    count = xp.clip(xp.sum(members, axis=1, keepdims=True), 1.0, None)
    return xp.sum(members * entries, axis=1, keepdims=True) / count


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePolicyLoss(PolicyLoss):
    """GSPO: clipped surrogate on the geometric mean of a completion's ratios. https://arxiv.org/abs/2507.18071

    s = exp(mean of log r over the completion), the same at each of its tokens.

    Attributes:
        gradient: ``sequence`` differentiates s (TRL, OpenRLHF); ``token`` takes sg(s) exp(logps - sg(logps)), the same
            value with the gradient of each token alone (verl, the paper's GSPO-token).
        log_ratio_max: upper bound of log s (verl); 0: off.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    gradient: str = "sequence"
    log_ratio_max: float = 10.0

    own: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high")

    def __post_init__(self) -> None:
        PolicyLoss.__post_init__(self)
        if self.gradient not in ("sequence", "token"):
            raise ValueError(f"gradient must be sequence or token, not {self.gradient!r}")

    def ratio(self, xp: Any, log_ratio: Any, advantages: Any, tensors: Mapping[str, Any]) -> Any:
        """s ``[N, T]``."""
        trained = xp.where(tensors["mask"] > 0, xp.ones_like(log_ratio), 0.0)
        mean = row_mean(xp, log_ratio, trained) * trained
        if self.gradient == "token":
            mean = xp.stop_gradient(mean) + log_ratio - xp.stop_gradient(log_ratio)
        return xp.exp(xp.clip(mean, None, self.log_ratio_max) if self.log_ratio_max > 0 else mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPolicyLoss(PolicyLoss):
    """Rank-GRPO: clipped surrogate on the geometric mean of an item's ratios. https://arxiv.org/abs/2510.20150

    The tokens of item k (``segments`` == k) share exp(mean of log r over them). Further ratios are shared by the trained
    tokens past the last item (``segments`` == K), by the end token (K + 1), and by those of no item.

    Attributes:
        items: number of items K of a completion.
    """

    items: int = 1

    def __post_init__(self) -> None:
        PolicyLoss.__post_init__(self)
        if self.items < 1:
            raise ValueError(f"items must be at least 1, not {self.items}")

    def ratio(self, xp: Any, log_ratio: Any, advantages: Any, tensors: Mapping[str, Any]) -> Any:
        """Ratio of each token's item ``[N, T]``. Raises ValueError without ``segments``."""
        if "segments" not in tensors:
            raise ValueError("the ratio of an item needs segments, and the batch has none")
        rest = xp.where(tensors["mask"] > 0, xp.ones_like(log_ratio), 0.0)
        level = xp.zeros_like(log_ratio)
        for item in range(self.items + 2):
            inside = xp.where(tensors["segments"] == item, rest, 0.0)
            level = level + inside * row_mean(xp, log_ratio, inside)
            rest = rest - inside
        return xp.exp(level + rest * row_mean(xp, log_ratio, rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class CispoPolicyLoss(PolicyLoss):
    """CISPO: l = -sg(clip(r, low, high)) A logps. No token loses its gradient. https://arxiv.org/abs/2506.13585

    Attributes:
        low, high: bounds of the ratio itself. verl, slime, NeMo: 1 - epsilon_low and 1 + epsilon_high; open-instruct: 0
            and 1 + epsilon_high; TRL: 0 and epsilon_high, so that its 0.2 would bound every ratio by 0.2.
    """

    low: float = 0.0
    high: float = 5.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SapoPolicyLoss(PolicyLoss):
    """SAPO: a smooth gate in place of the clip, l = -(4 / tau) sigmoid(tau (r - 1)) A. https://arxiv.org/abs/2511.20347

    Attributes:
        tau_positive, tau_negative: how fast the gate closes where A > 0, and elsewhere.
    """

    tau_positive: float = 1.0
    tau_negative: float = 1.05

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


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricPolicyLoss(PolicyLoss):
    """GMPO: l = -A exp(mean of clipped log r over the completion). https://arxiv.org/abs/2507.20673

    log r is clipped to [-clip_low, clip_high] on the side that the sign of A makes pessimistic, token by token; A is
    meant to be one number a completion, and a token where it is 0 takes the sign of the others. verl's ``geo_mean`` is
    this with ``aggregation: sequence_mean`` and bounds of 0.2.
    """

    clip_low: float = 0.4
    clip_high: float = 0.4

    own: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CpgdPolicyLoss(PolicyLoss):
    """CPGD: the log-ratio in place of the ratio, clipped, and a penalty on drift. https://arxiv.org/abs/2505.12504

    l = -min(x A, clip(x, log(1 - clip_low), log(1 + clip_high)) A) + drift_coef D with x = log r. The gradient of a
    token that is not clipped is that of REINFORCE, without a ratio that could grow. D estimates KL(old || policy) by
    r - 1 - x, continued as a line above r = 1 + drift_clip, so that its slope is at most drift_clip.
    The authors' code has coefficient 0.01 and clip 0.2; that the clip bounds the slope is our reading of it.
    LightRFT has the first term alone, as -min(logps, log(1 + eps) + old_logps) A and its mirror image: equal gradients.

    Attributes:
        drift_coef: weight of D; 0: off.
        drift_clip: largest slope of D.
    """

    drift_coef: float = 0.0
    drift_clip: float = 0.2

    unused: ClassVar[tuple[str, ...]] = ("dual_clip", "delta")

    def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
        """Clipped policy-gradient loss of each token ``[N, T]``."""
        clipped = xp.clip(log_ratio, math.log(1.0 - self.clip_low), math.log(1.0 + self.clip_high))
        return xp.maximum(-log_ratio * advantages, -clipped * advantages)

    def regularised(self, xp: Any, losses: Any, log_ratio: Any, logps: Any, tensors: Mapping[str, Any]) -> Any:
        """The same, and drift_coef D."""
        if self.drift_coef > 0:
            knee = xp.clip(log_ratio, None, math.log(1.0 + self.drift_clip))
            drift = xp.exp(knee) - 1.0 - knee + self.drift_clip * (log_ratio - knee)
            losses = losses + self.drift_coef * drift
        return PolicyLoss.regularised(self, xp, losses, log_ratio, logps, tensors)
