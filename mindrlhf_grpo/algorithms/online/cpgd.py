"""CPGD: rewards normalised over the batch, and a clipped log-ratio in place of the ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...advantages import Table, check_shapes, group_z_score, weighted_total
from ...losses import PolicyLoss
from ...types import FloatArray, IntArray
from ..algorithm import Algorithm


def cpgd(values: FloatArray, weights: FloatArray, groups: IntArray, *, eps: float, ddof: int) -> Table:
    """(R - mean) / (std + eps) over the whole batch, not the group. ``[N, K]``

    CPGD as in LightRFT (biased std, eps 1e-6), which takes its micro-batch for the batch. The paper
    https://arxiv.org/abs/2505.12504 compares in groups: those are the algorithms ``grpo`` and
    ``dr_grpo``. Arguments as in :func:`grpo.grpo`.
    """
    check_shapes(values, weights, groups)
    return group_z_score(weighted_total(values, weights), np.zeros_like(groups), eps=eps, ddof=ddof)


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

    name: ClassVar[str] = "cpgd"
    formula: ClassVar[str] = "−min(x A, clip(x, log(1 − ε_l), log(1 + ε_h)) A), x = log r; + drift_coef (r − 1 − x)"
    source: ClassVar[str] = "[CPGD](https://arxiv.org/abs/2505.12504)"
    peers: ClassVar[str] = "lightrft `--use_cpg_loss`: without the drift"
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


ALGORITHM = Algorithm(
    name="cpgd",
    estimator=cpgd,
    formula="(R − mean) / (std + eps) over the batch, biased std",
    source="[CPGD](https://arxiv.org/abs/2505.12504), LightRFT",
    peers="lightrft `cpgd`: over its micro-batch, eps 1e-6",
    loss=CpgdPolicyLoss,
    group_size=1,
    prescribes={"std_ddof": 0, "adv_eps": 1e-6},
)
