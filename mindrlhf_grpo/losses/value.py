"""The loss of a critic over an array namespace ``xp``. Legend: N completions, T tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueLoss:
    """Clipped regression of values on returns: l = 1/2 max((V - R)², (clip(V, Vo - c, Vo + c) - R)²).

    PPO, https://arxiv.org/abs/1707.06347, as in TRL, verl and OpenRLHF.

    Attributes:
        clip: c, how far a value moves from the old one Vo; 0: no bound, and ``old_values`` are not read.
        coef: factor of the loss.
        reads_values: a policy is to give its value head's numbers to this loss, not log-probs.
    """

    clip: float = 0.2
    coef: float = 1.0
    reads_values: bool = False

    reads_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.clip < float("inf"):
            raise ValueError(f"clip must be 0 or a positive number, not {self.clip}")

    def __call__(self, xp: Any, values: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) of the micro-batch and sums over its trained tokens.

        Args:
            values: of the critic ``[N, T]``.
            tensors: ``mask``, ``weights``, ``returns`` and ``old_values``, all ``[N, T]``.

        Returns:
            The loss, and ``value`` (sum of V), ``value_clip`` (tokens whose gradient the bound cuts off),
            ``value_error`` (sum of (V - R)²).
        """
        if values.shape != tensors["mask"].shape:
            raise ValueError(f"values {tuple(values.shape)} and mask {tuple(tensors['mask'].shape)} differ in shape")
        trained = tensors["mask"] > 0
        current = xp.where(trained, values, 0.0)
        returns = xp.where(trained, tensors["returns"], 0.0)
        free = xp.square(current - returns)
        losses = free
        if self.clip > 0:
            old = xp.where(trained, tensors["old_values"], 0.0)
            losses = xp.maximum(free, xp.square(old + xp.clip(current - old, -self.clip, self.clip) - returns))
        held = xp.stop_gradient(free)
        sums = {
            "value": xp.sum(xp.stop_gradient(current)),
            "value_clip": xp.sum(xp.where(xp.stop_gradient(losses) > held, xp.ones_like(held), 0.0)),
            "value_error": xp.sum(held),
        }
        return self.coef * xp.sum(0.5 * xp.where(trained, tensors["weights"], 0.0) * losses), sums
