"""GSPO: GRPO's advantages, and the clipped loss on one ratio per completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses import PolicyLoss, row_mean
from ..algorithm import Algorithm
from .grpo import FORMULA, grpo


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

    name: ClassVar[str] = "gspo"
    formula: ClassVar[str] = "the same with s = exp(mean log r) of the completion"
    source: ClassVar[str] = "[GSPO](https://arxiv.org/abs/2507.18071)"
    peers: ClassVar[str] = "`gradient: sequence` trl, openrlhf; `gradient: token` and log s ≤ 10: verl"
    own_defaults: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high")

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


ALGORITHM = Algorithm(
    name="gspo",
    estimator=grpo,
    formula=FORMULA,
    source="[GSPO](https://arxiv.org/abs/2507.18071)",
    peers="trl, verl, openrlhf",
    loss=SequencePolicyLoss,
    prescribes={"aggregation": "sequence_mean"},
)
