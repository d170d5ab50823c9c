"""Policy losses over an array namespace ``xp``. Legend: N completions, T tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .kl import kl


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """PPO's clipped surrogate on token ratios, with dual clip and a KL to the reference where asked.

    l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef KL, with r = exp(logps - old_logps). Dual clip
    takes min(that, -c A) where A < 0. PPO https://arxiv.org/abs/1707.06347, dual clip
    https://arxiv.org/abs/1912.09729, separate bounds (DAPO) https://arxiv.org/abs/2503.14476.

    Attributes:
        dual_clip: c > 1; 0: off.
        kl_coef: weight of the KL in the loss; 0: off.
        log_ratio_clamp: bounds logps - old_logps to ±this before exp; 0: off.
        kl_clamp: bounds the KL estimate to ±this; 0: off.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    log_ratio_clamp: float = 0.0
    kl_clamp: float = 0.0

    def __call__(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) of the micro-batch and sums over its trained tokens.

        Args:
            logps: log-probs of the policy ``[N, T]``.
            tensors: ``mask``, ``weights``, ``advantages``; where needed ``old_logps`` (absent: those of the policy,
                held constant, so r = 1), ``ref_logps``, ``rollout_logps``; all ``[N, T]``.

        Returns:
            The loss, and ``ratio``, ``clip_low``, ``clip_high`` (tokens where that bound is active),
            ``max/ratio_dev`` = max |r - 1|; with a reference ``kl`` (always k3); with sampling log-probs
            ``rollout_gap`` (sum) and ``max/rollout_gap`` of |logps - rollout_logps|.
        """
        if logps.shape != tensors["mask"].shape:
            raise ValueError(f"logps {tuple(logps.shape)} and mask {tuple(tensors['mask'].shape)} differ in shape")
        trained = tensors["mask"] > 0
        advantages = xp.where(trained, tensors["advantages"], 0.0)
        current = xp.where(trained, logps, 0.0)
        old = xp.where(trained, tensors["old_logps"], 0.0) if "old_logps" in tensors else xp.stop_gradient(current)
        log_ratio = current - old
        if self.log_ratio_clamp > 0:
            log_ratio = xp.clip(log_ratio, -self.log_ratio_clamp, self.log_ratio_clamp)
        ratio = xp.exp(log_ratio)

        losses = self.surrogate(xp, ratio, advantages)
        sums = self.ratio_sums(xp, xp.stop_gradient(ratio), advantages, trained)
        if "ref_logps" in tensors:
            reference = xp.where(trained, tensors["ref_logps"], 0.0)
            if self.kl_coef > 0:
                losses = losses + self.kl_coef * kl(xp, current, reference, self.kl_estimator, self.kl_clamp)
            sums["kl"] = xp.sum(kl(xp, xp.stop_gradient(current), reference, "k3", self.kl_clamp))
        elif self.kl_coef > 0:
            raise ValueError("kl_coef is above 0, but the batch has no ref_logps")
        if "rollout_logps" in tensors:
            gap = xp.abs(xp.stop_gradient(current) - xp.where(trained, tensors["rollout_logps"], 0.0))
            sums["rollout_gap"], sums["max/rollout_gap"] = xp.sum(gap), xp.max(gap)
        return xp.sum(xp.where(trained, tensors["weights"], 0.0) * losses), sums

    def surrogate(self, xp: Any, ratio: Any, advantages: Any) -> Any:
        """Clipped loss of each token ``[N, T]``, without the KL."""
        clipped = xp.clip(ratio, 1.0 - self.clip_low, 1.0 + self.clip_high)
        losses = xp.maximum(-ratio * advantages, -clipped * advantages)
        if self.dual_clip > 0:
            # |A| c is the bound where A < 0; where A >= 0 the loss is not above it, so no branch is needed
            losses = xp.minimum(losses, xp.abs(advantages) * self.dual_clip)
        return losses

    def ratio_sums(self, xp: Any, ratio: Any, advantages: Any, trained: Any) -> dict[str, Any]:
        """What the ratios of the trained tokens look like, as sums."""
        ones = xp.where(trained, xp.ones_like(ratio), 0.0)
        low = xp.where(advantages < 0, ones, 0.0)
        high = xp.where(advantages > 0, ones, 0.0)
        return {
            "ratio": xp.sum(xp.where(trained, ratio, 0.0)),
            "clip_low": xp.sum(xp.where(ratio < 1.0 - self.clip_low, low, 0.0)),
            "clip_high": xp.sum(xp.where(ratio > 1.0 + self.clip_high, high, 0.0)),
            "max/ratio_dev": xp.max(xp.abs(ratio - 1.0)),
        }
