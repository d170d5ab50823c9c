"""DPO and its relatives: each makes the loss of a pair from two log-ratios, by one formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses.preference import Sigmoid, log_sigmoid, sigmoid
from ..objective import Instead, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class CDPO(Sigmoid):
    """Conservative DPO: a share ``label_smoothing`` of the pairs is taken to be labelled the wrong way round.

    https://ericmitchell.ai/cdpo.pdf. OpenRLHF and MindRLHF do this under their ``sigmoid``.
    """

    label_smoothing: float = 0.1

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        gap = self.beta * (chosen - rejected)
        return -(1.0 - self.label_smoothing) * log_sigmoid(xp, gap) - self.label_smoothing * log_sigmoid(xp, -gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmoidNorm(CDPO):
    """DPO on log-ratios per token: TRL ``sigmoid_norm``; what MindRLHF's ``DPOLossV2`` always does."""

    label_smoothing: float = 0.0
    averaged: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Robust(Sigmoid):
    """DPO whose expectation under flipped labels is that without: https://arxiv.org/abs/2403.00409."""

    label_smoothing: float = 0.1

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        gap = self.beta * (chosen - rejected)
        mixed = (1.0 - self.label_smoothing) * log_sigmoid(xp, gap) - self.label_smoothing * log_sigmoid(xp, -gap)
        return -mixed / (1.0 - 2.0 * self.label_smoothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hinge(Sigmoid):
    """max(0, 1 - beta h), as in SLiC: https://arxiv.org/abs/2305.10425."""

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        short = 1.0 - self.beta * (chosen - rejected)
        return xp.maximum(short, xp.zeros_like(short))


@dataclass(frozen=True, slots=True, kw_only=True)
class IPOSum(Sigmoid):
    """(h - 1 / (2 beta))^2 with h of summed log-ratios: OpenRLHF and MindRLHF. https://arxiv.org/abs/2310.12036."""

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        return xp.square(chosen - rejected - 0.5 / self.beta)


@dataclass(frozen=True, slots=True, kw_only=True)
class IPO(IPOSum):
    """IPO with h of log-ratios per token, as in TRL and the paper's code."""

    averaged: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class APOZero(Sigmoid):
    """Chosen becomes likelier, rejected less likely, for a policy worse than the data: https://arxiv.org/abs/2408.06266."""

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        return 1.0 - sigmoid(xp, self.beta * chosen) + sigmoid(xp, self.beta * rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class APODown(Sigmoid):
    """Both become less likely, rejected more so, for a policy better than the data: https://arxiv.org/abs/2408.06266."""

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        return sigmoid(xp, self.beta * chosen) + 1.0 - sigmoid(xp, self.beta * (chosen - rejected))


@dataclass(frozen=True, slots=True, kw_only=True)
class NCAPair(Sigmoid):
    """Noise-contrastive alignment of two: also holds the likelihood of chosen up. https://arxiv.org/abs/2402.05369."""

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        liked, disliked = self.beta * chosen, self.beta * rejected
        return -log_sigmoid(xp, liked) - 0.5 * log_sigmoid(xp, -liked) - 0.5 * log_sigmoid(xp, -disliked)


@dataclass(frozen=True, slots=True, kw_only=True)
class SPPOHard(Sigmoid):
    """Log-ratios are drawn to +-1 / (2 beta): self-play with hard labels, https://arxiv.org/abs/2405.00675."""

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        return xp.square(chosen - 0.5 / self.beta) + xp.square(rejected + 0.5 / self.beta)


@dataclass(frozen=True, slots=True, kw_only=True)
class EXOPair(Sigmoid):
    """Reverse KL from the policy's preference to smoothed labels: https://arxiv.org/abs/2402.00856."""

    label_smoothing: float = 1e-3

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        gap = self.beta * (chosen - rejected)
        ones = xp.ones_like(gap)
        right, wrong = log_sigmoid(xp, gap), log_sigmoid(xp, -gap)
        return xp.exp(right) * (right - xp.log(ones * (1.0 - self.label_smoothing))) + xp.exp(wrong) * (
            wrong - xp.log(ones * self.label_smoothing)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoPOP(Sigmoid):
    """Logistic and exponential loss, blended by the log-ratio itself: https://arxiv.org/abs/2406.08414."""

    tau: float = 0.05

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        gap = self.beta * (chosen - rejected)
        blend = log_sigmoid(xp, gap / self.tau)
        # exp(blend) exp(-gap) as one exp: each alone leaves float32 where the gap is far below 0
        return -log_sigmoid(xp, gap) * (1.0 - xp.exp(blend)) + xp.exp(blend - gap)


OPENRLHF = Instead(objective="cdpo", values={"beta": 0.1, "label_smoothing": 0.0})
SUMS = Instead(objective="ipo_sum", values={"beta": 0.1})
HINTS = {
    "label_smoothing": "TRL accepts it with sigmoid and ignores it; OpenRLHF's and MindRLHF's sigmoid is cdpo here"
}

OBJECTIVES = (
    Objective(
        name="sigmoid",
        loss=Sigmoid,
        source="arXiv:2305.18290",
        peers="trl sigmoid",
        aliases=("dpo",),
        presets={
            "openrlhf": OPENRLHF,
            "mindrlhf": Instead(objective="sigmoid_norm", values={"beta": 0.1}),
            "mindrlhf_v1": OPENRLHF,
        },
        hints=HINTS,
    ),
    Objective(
        name="cdpo",
        loss=CDPO,
        source="ericmitchell.ai/cdpo.pdf",
        peers="openrlhf, mindrlhf: sigmoid with label_smoothing",
    ),
    Objective(name="robust", loss=Robust, source="arXiv:2403.00409", peers="trl, mindrlhf: robust"),
    Objective(name="hinge", loss=Hinge, source="arXiv:2305.10425", peers="trl, mindrlhf: hinge"),
    Objective(
        name="ipo",
        loss=IPO,
        source="arXiv:2310.12036",
        peers="trl: ipo (per token)",
        presets={"openrlhf": SUMS, "mindrlhf": SUMS, "mindrlhf_v1": SUMS},
    ),
    Objective(name="ipo_sum", loss=IPOSum, source="arXiv:2310.12036", peers="openrlhf --ipo; mindrlhf: ipo (sums)"),
    Objective(
        name="sigmoid_norm", loss=SigmoidNorm, source="arXiv:2405.14734", peers="trl: sigmoid_norm; mindrlhf: DPOLossV2"
    ),
    Objective(name="apo_zero", loss=APOZero, source="arXiv:2408.06266", peers="trl, mindrlhf: apo_zero"),
    Objective(name="apo_down", loss=APODown, source="arXiv:2408.06266", peers="trl, mindrlhf: apo_down"),
    Objective(name="nca_pair", loss=NCAPair, source="arXiv:2402.05369", peers="trl, mindrlhf: nca_pair"),
    Objective(name="sppo_hard", loss=SPPOHard, source="arXiv:2405.00675", peers="trl, mindrlhf: sppo_hard"),
    Objective(name="exo_pair", loss=EXOPair, source="arXiv:2402.00856", peers="trl, mindrlhf: exo_pair"),
    Objective(name="discopop", loss=DiscoPOP, source="arXiv:2406.08414", peers="trl: discopop"),
)
