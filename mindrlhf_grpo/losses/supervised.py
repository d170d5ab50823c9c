"""Maximum likelihood on given tokens: supervised fine-tuning, and the pretraining mix of PPO (PTX)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeLogLikelihood:
    """-log p of every trained token, by weight; PTX: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155.

    Attributes:
        coef: factor of the whole term; below 1 where it joins another loss.
    """

    coef: float = 1.0
    counted_by: ClassVar[str] = "tokens"
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) and ``nll``, the unweighted sum over trained tokens.

        Args:
            logps: log-probs of the policy ``[N, T]``.
            tensors: ``mask``, ``weights`` ``[N, T]``.
        """
        trained = tensors["mask"] > 0
        losses = -xp.where(trained, logps, 0.0)
        weights = xp.where(trained, tensors["weights"], 0.0)
        return self.coef * xp.sum(weights * losses), {"nll": xp.sum(xp.stop_gradient(losses))}
