"""Rank-GRPO: GRPO for lists; item k of a completion is compared with item k of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses import PolicyLoss, row_mean
from ..algorithm import Algorithm
from .grpo import grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPolicyLoss(PolicyLoss):
    """Rank-GRPO: clipped surrogate on the geometric mean of an item's ratios. https://arxiv.org/abs/2510.20150

    The tokens of item k (``segments`` == k) share exp(mean of log r over them). Further ratios are shared by the trained
    tokens past the last item (``segments`` == K), by the end token (K + 1), and by those of no item.

    Attributes:
        items: number of items K of a completion.
    """

    items: int = 1

    name: ClassVar[str] = "item"
    formula: ClassVar[str] = "the same with exp(mean log r) of the token's item; one ratio for the rest"
    source: ClassVar[str] = "[Rank-GRPO](https://arxiv.org/abs/2510.20150)"
    peers: ClassVar[str] = "Rank-GRPO `importance_sampling_level: item`"

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


ALGORITHM = Algorithm(
    name="rank_grpo",
    estimator=grpo,
    formula="`grpo` for each rank k of a list by itself",
    source="[Rank-GRPO](https://arxiv.org/abs/2510.20150)",
    peers="Rank-GRPO: eps 1e-4",
    other_losses=(ItemPolicyLoss,),
)
