"""Policy losses as a user writes them: a surrogate function and a dataclass, named by ``file.py:thing`` in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mindrlhf_grpo.losses import PolicyLoss


def plain_gradient(xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
    """REINFORCE, with a factor at tokens of a low ratio."""
    return xp.where(ratio < 0.75, 0.5 * xp.ones_like(ratio), 1.0) * -advantages * logps


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedWeight(PolicyLoss):
    """The ratio held constant as a weight, bounded from above."""

    bound: float = 2.0

    unused: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "dual_clip", "delta")

    def surrogate(self, xp: Any, ratio: Any, log_ratio: Any, advantages: Any, logps: Any) -> Any:
        """Loss of each token ``[N, T]``."""
        return -xp.stop_gradient(xp.clip(ratio, None, self.bound)) * advantages * logps


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutSkeleton:
    """A loss that shares nothing with ``PolicyLoss``."""

    scale: float = 1.0

    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) and the sum of the log-probs."""
        trained = tensors["mask"] > 0
        current = xp.where(trained, logps, 0.0)
        weights = xp.where(trained, tensors["weights"] * tensors["advantages"], 0.0)
        return -self.scale * xp.sum(weights * current), {"logp": xp.sum(xp.stop_gradient(current))}
