"""The policy loss: the one skeleton, and PPO's clipped surrogate in it. Legend: N completions, T tokens.

Other losses, each in the file of its algorithm (``algorithms/online``), change the level of the ratio or the
surrogate. Each surrogate is linear in a non-negative factor of its advantages, so train/rollout corrections are
multiplied into those: ``algorithms/corrections.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from .kl import KL_ESTIMATORS, kl


def row_mean(xp: Any, entries: Any, members: Any) -> Any:
    """Mean over the members (1, else 0) of each row ``[N, 1]`` of ``[N, T]``; 0 without any."""
    count = xp.clip(xp.sum(members, axis=1, keepdims=True), 1.0, None)
    return xp.sum(members * entries, axis=1, keepdims=True) / count


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """PPO's clipped surrogate on token ratios; KL to the reference and entropy bonus where asked.

    l = -min(min(r, delta) A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coef KL - entropy_coef H, with
    r = exp(logps - old_logps). Dual clip takes min(that, -c A) where A < 0. PPO https://arxiv.org/abs/1707.06347,
    dual clip https://arxiv.org/abs/1912.09729, separate bounds (DAPO) https://arxiv.org/abs/2503.14476, delta (TRL)
    https://arxiv.org/abs/2505.07291.

    Attributes:
        dual_clip: c > 1; 0: off.
        delta: upper bound of the ratio where it is not clipped, above 1 + clip_high; 0: off.
        kl_coef: weight of the KL in the loss; 0: off.
        entropy_coef: weight of the entropy of each token's distribution, taken from the loss; 0: off.
        log_ratio_clamp: bounds logps - old_logps to ±this before exp; 0: off.
        kl_clamp: bounds the KL estimate to ±this; 0: off.
        name, formula, source, peers: the loss's row in the tables of the documentation.
        own_defaults: fields whose default belongs to the loss, whatever a preset says.
        unused: fields that have no effect on the loss.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    delta: float = 0.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    log_ratio_clamp: float = 0.0
    kl_clamp: float = 0.0

    name: ClassVar[str] = "ppo"
    formula: ClassVar[str] = "−min(min(r, δ) A, clip(r, 1 − ε_l, 1 + ε_h) A); with c and A < 0 at most −c A"
    source: ClassVar[str] = "[PPO](https://arxiv.org/abs/1707.06347)"
    peers: ClassVar[str] = "all; δ: trl `delta`; c: verl `clip_ratio_c` 3, areal, slime"
    own_defaults: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[tuple[str, ...]] = ()
    reads_values: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raises ValueError for a number that cannot be meant."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be 0 or a positive number, not {value}")
        if self.clip_low >= 1:
            raise ValueError(f"clip_low must be below 1, not {self.clip_low}")
        if 0 < self.dual_clip <= 1:
            raise ValueError(f"dual_clip must be above 1, or 0 for off, not {self.dual_clip}")
        if 0 < self.delta <= 1 + self.clip_high:
            raise ValueError(f"delta must be above 1 + clip_high = {1 + self.clip_high}, not {self.delta}")
        if self.kl_estimator not in KL_ESTIMATORS:
            raise ValueError(f"kl_estimator must be one of {', '.join(KL_ESTIMATORS)}, not {self.kl_estimator!r}")

    @property
    def reads_entropy(self) -> bool:
        """True if the loss reads ``tensors["entropies"]`` with their gradient."""
        return self.entropy_coef > 0

    def __call__(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) of the micro-batch and sums over its trained tokens.

        Args:
            logps: log-probs of the policy ``[N, T]``.
            tensors: ``mask``, ``weights``, ``advantages``; where needed ``old_logps`` (absent: those of the policy,
                held constant, so r = 1), ``ref_logps``, ``rollout_logps``, ``entropies``, ``segments``; all ``[N, T]``.

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
        ratio = self.ratio(xp, log_ratio, advantages, tensors)

        losses = self.surrogate(xp, ratio, log_ratio, advantages, current)
        losses = self.regularised(xp, losses, log_ratio, current, tensors)
        sums = self.ratio_sums(xp, xp.stop_gradient(ratio), xp.stop_gradient(log_ratio), advantages, trained)
        if "ref_logps" in tensors:
            reference = xp.where(trained, tensors["ref_logps"], 0.0)
            sums["kl"] = xp.sum(kl(xp, xp.stop_gradient(current), reference, "k3", self.kl_clamp))
        if "rollout_logps" in tensors:
            gap = xp.abs(xp.stop_gradient(current) - xp.where(trained, tensors["rollout_logps"], 0.0))
            sums["rollout_gap"], sums["max/rollout_gap"] = xp.sum(gap), xp.max(gap)
        return xp.sum(xp.where(trained, tensors["weights"], 0.0) * losses), sums

    def ratio(self, xp: Any, log_ratio: Any, advantages: Any, tensors: Mapping[str, Any]) -> Any:
        """Policy / old policy of each token ``[N, T]``, at the level of this loss, from the ratio of each token."""
        return xp.exp(log_ratio)

    def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
        """Loss of each token ``[N, T]``, without KL and entropy."""
        unclipped = xp.clip(ratio, None, self.delta) if self.delta > 0 else ratio
        clipped = xp.clip(ratio, 1.0 - self.clip_low, 1.0 + self.clip_high)
        losses = xp.maximum(-unclipped * advantages, -clipped * advantages)
        if self.dual_clip > 0:
            # |A| c is the bound where A < 0; where A >= 0 the loss is not above it, so no branch is needed
            losses = xp.minimum(losses, xp.abs(advantages) * self.dual_clip)
        return losses

    def regularised(self, xp: Any, losses: Any, log_ratio: Any, logps: Any, tensors: Mapping[str, Any]) -> Any:
        """Losses ``[N, T]`` plus the terms that do not depend on the advantages: the KL and the entropy bonus."""
        trained = tensors["mask"] > 0
        if self.entropy_coef > 0:
            losses = losses - self.entropy_coef * xp.where(trained, tensors["entropies"], 0.0)
        if self.kl_coef == 0:
            return losses
        if "ref_logps" not in tensors:
            raise ValueError("kl_coef is above 0, but the batch has no ref_logps")
        reference = xp.where(trained, tensors["ref_logps"], 0.0)
        ratio = xp.exp(log_ratio) if self.kl_estimator == "r*k3" else None
        return losses + self.kl_coef * kl(xp, logps, reference, self.kl_estimator, self.kl_clamp, ratio=ratio)

    def ratio_sums(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, trained: Any) -> dict[str, Any]:
        """Statistics of the trained tokens' ratios, as sums."""
        ones = xp.where(trained, xp.ones_like(ratio), 0.0)
        low, high = self.bounded(xp, ratio, log_ratio, advantages, ones)
        return {
            "ratio": xp.sum(xp.where(trained, ratio, 0.0)),
            "clip_low": xp.sum(low),
            "clip_high": xp.sum(high),
            "max/ratio_dev": xp.max(xp.abs(xp.where(trained, ratio - 1.0, 0.0))),
        }

    def bounded(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, ones: Any) -> tuple[Any, Any]:
        """1 at each trained token where the lower bound, and where the upper one is active, from ``ones`` there."""
        low = xp.where(advantages < 0, ones, 0.0)
        high = xp.where(advantages > 0, ones, 0.0)
        return xp.where(ratio < 1.0 - self.clip_low, low, 0.0), xp.where(ratio > 1.0 + self.clip_high, high, 0.0)
