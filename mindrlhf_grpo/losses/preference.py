"""Preference losses over pairs: the log-ratio of a chosen completion is to exceed that of a rejected one.

One skeleton makes a log-ratio log pi/ref of each completion, summed over its tokens or averaged, and a variant turns
those of a pair into its loss. Row 2i is chosen, row 2i+1 rejected (``Batch.coupled``). ``row_weight`` carries
1 / pairs of the global batch; rows that a backend adds as padding have 0 there. Legend: N rows, T tokens, n = N // 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


def log_sigmoid(xp: Any, x: Any) -> Any:
    """log(1 / (1 + exp(-x))), exact for large |x|."""
    return -xp.logaddexp(xp.zeros_like(x), -x)


def sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)), exact for large |x|."""
    return xp.exp(log_sigmoid(xp, x))


def right(xp: Any, gap: Any) -> Any:
    """1 where a gap is above 0, 0 below, 1/2 for a tie: an untrained policy, equal to its reference, has 1/2 and not 0."""
    return 0.5 + 0.5 * xp.sign(xp.stop_gradient(gap))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """DPO, -log sigmoid(beta h) with h = chosen - rejected log-ratio: https://arxiv.org/abs/2305.18290.

    TRL's ``sigmoid`` accepts a label smoothing and ignores it; here only losses that read one have it (``CDPO``).

    Attributes:
        beta: how strongly the policy is held to the reference.
        reference_free: log-probs instead of log-ratios: the reference counts as uniform.
        sft_coef: weight of the chosen completions' negative log-likelihood, by ``weights``; 0: off.
    """

    beta: float = 0.1
    reference_free: bool = False
    sft_coef: float = 0.0

    counted_by: ClassVar[str] = "pairs"
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False
    averaged: ClassVar[bool] = False  # log-ratios are divided by the number of trained tokens
    compared: ClassVar[bool] = True  # to a reference

    def __call__(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) and sums over the pairs of the micro-batch.

        Args:
            logps: log-probs of the policy ``[N, T]``.
            tensors: ``mask``, ``row_weight``; ``ref_logps`` unless there is no reference; with ``sft_coef`` ``weights``.

        Returns:
            The loss, and ``pairs``, ``accuracy`` (reward of chosen above rejected, a tie is half), ``margin``,
            ``reward_chosen``, ``reward_rejected`` (beta x log-ratio), ``logp_chosen``, ``logp_rejected`` (sums of tokens).
        """
        n = logps.shape[0] // 2
        trained = tensors["mask"] > 0
        current = xp.where(trained, logps, 0.0)
        ratios = self.log_ratios(xp, current, trained, tensors)
        chosen, rejected = ratios[0 : 2 * n : 2], ratios[1 : 2 * n : 2]
        weights = tensors["row_weight"][0 : 2 * n : 2, 0]
        real = xp.where(weights > 0, xp.ones_like(weights), 0.0)
        loss = xp.sum(weights * self.losses(xp, chosen, rejected, tensors))
        if self.sft_coef > 0:
            token_weights = xp.where(trained, tensors["weights"], 0.0)
            loss = loss - self.sft_coef * xp.sum((token_weights * current)[0 : 2 * n : 2])
        gap = self.beta * xp.stop_gradient(chosen - rejected)
        totals = xp.stop_gradient(xp.sum(current, axis=1))
        return loss, {
            "pairs": xp.sum(real),
            "accuracy": xp.sum(right(xp, gap) * real),
            "margin": xp.sum(gap * real),
            "reward_chosen": self.beta * xp.sum(xp.stop_gradient(chosen) * real),
            "reward_rejected": self.beta * xp.sum(xp.stop_gradient(rejected) * real),
            "logp_chosen": xp.sum(totals[0 : 2 * n : 2] * real),
            "logp_rejected": xp.sum(totals[1 : 2 * n : 2] * real),
        }

    def log_ratios(self, xp: Any, current: Any, trained: Any, tensors: Mapping[str, Any]) -> Any:
        """Log-ratio of each row ``[N]``; without a reference its log-prob."""
        ratios = current
        if self.compared and not self.reference_free:
            ratios = current - xp.where(trained, tensors["ref_logps"], 0.0)
        totals = xp.sum(ratios, axis=1)
        if self.averaged:
            counts = xp.sum(xp.where(trained, xp.ones_like(current), 0.0), axis=1)
            totals = totals / xp.maximum(counts, xp.ones_like(counts))
        return totals

    def scores(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> Any:
        """Implicit reward of each row ``[N]``: beta x log-ratio; of a pair the higher one is preferred."""
        trained = tensors["mask"] > 0
        return self.beta * self.log_ratios(xp, xp.where(trained, logps, 0.0), trained, tensors)

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        """Loss of each pair ``[n]`` from the log-ratios ``[n]``; ``tensors`` is what else the batch carries."""
        return -log_sigmoid(xp, self.beta * (chosen - rejected))


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
class BCOPair(Sigmoid):
    """A classifier of good and bad, rewards shifted by their mean: https://arxiv.org/abs/2404.04656.

    ``baseline`` is the mean log-ratio over the global batch (``preparation.py``), as in TRL; MindRLHF has a running mean.
    """

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        n = tensors["baseline"].shape[0] // 2
        shift = self.beta * tensors["baseline"][0 : 2 * n : 2, 0]
        return -log_sigmoid(xp, self.beta * chosen - shift) - log_sigmoid(xp, shift - self.beta * rejected)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AOT(Sigmoid):
    """Distributional preference: the k-th largest log pi(chosen) / pi(rejected) meets the k-th largest of the reference.

    https://arxiv.org/abs/2406.05882. The sort is over the *global* batch, so the host makes it, from the log-probs
    before the update (``preparation.py``): ``partner`` is what a pair is compared with, a constant.
    """

    label_smoothing: float = 0.0

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        n = tensors["partner"].shape[0] // 2
        # partner: (reference's log-ratio of equal rank) - (this pair's own), which the skeleton has subtracted
        return self.smoothed(xp, self.beta * (chosen - rejected - tensors["partner"][0 : 2 * n : 2, 0]))

    def smoothed(self, xp: Any, gap: Any) -> Any:
        """cDPO's loss of a gap."""
        return -(1.0 - self.label_smoothing) * log_sigmoid(xp, gap) - self.label_smoothing * log_sigmoid(xp, -gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class AOTUnpaired(AOT):
    """The k-th largest log-ratio of the chosen meets the k-th largest of the rejected: no pair has to be a pair.

    Each row has its counterpart's value as ``partner``, a constant. A gap then appears twice, once from either side:
    value halved, gradient whole, the sum is the sorted formula.
    """

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        n = tensors["partner"].shape[0] // 2
        partner = tensors["partner"]
        up = self.smoothed(xp, self.beta * (chosen - partner[0 : 2 * n : 2, 0]))
        down = self.smoothed(xp, self.beta * (partner[1 : 2 * n : 2, 0] - rejected))
        return up + down - 0.5 * xp.stop_gradient(up + down)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimPO(Sigmoid):
    """-log sigmoid(beta (average log-prob chosen - rejected) - gamma), no reference: https://arxiv.org/abs/2405.14734.

    The paper's beta is 2 to 10; TRL's CPO trainer has 0.1, and adds the NLL of chosen (``sft_coef`` 1) by default.
    """

    beta: float = 2.0
    gamma: float = 0.5
    label_smoothing: float = 0.0
    averaged: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        gap = self.beta * (chosen - rejected) - self.gamma
        return -(1.0 - self.label_smoothing) * log_sigmoid(xp, gap) - self.label_smoothing * log_sigmoid(xp, -gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class ORPO(Sigmoid):
    """NLL of chosen - beta log sigmoid(log odds chosen - rejected) on average log-probs: https://arxiv.org/abs/2403.07691."""

    sft_coef: float = 1.0
    averaged: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    def losses(self, xp: Any, chosen: Any, rejected: Any, tensors: Mapping[str, Any]) -> Any:
        return -self.beta * log_sigmoid(xp, log_odds(xp, chosen) - log_odds(xp, rejected))


def log_odds(xp: Any, logp: Any) -> Any:
    """log(p / (1 - p)) from log p <= 0; p = 1 counts as 1 - 1e-10."""
    below = xp.clip(logp, None, -1e-10)
    series = xp.ones_like(below)
    for order in (9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0):
        series = 1.0 + below / order * series
    # 1 - exp(x) loses its digits near 0, where a few terms of its series are exact
    near = below > -0.1
    rest = xp.where(near, -below * series, 1.0 - xp.exp(xp.where(near, -xp.ones_like(below), below)))
    return below - xp.log(rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class KTO:
    """Prospect theory on single rows labelled good or bad: https://arxiv.org/abs/2402.01306.

    Desirable: w (1 - sigmoid(beta (x - z))), undesirable: w (1 - sigmoid(beta (z - x))); x is the summed log-ratio,
    z the KL estimated on mismatched completions, at least 0: ``baseline``, a constant made by the host
    (``preparation.py``).

    Attributes:
        desirable, undesirable: weight w of either kind.
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0

    counted_by: ClassVar[str] = "rows"
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False
    compared: ClassVar[bool] = True

    def __call__(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) and sums over rows.

        Args:
            logps: log-probs of the policy ``[N, T]``.
            tensors: ``mask``, ``ref_logps``, ``row_weight`` (1 / rows), ``label`` (1 desirable, 0 not), ``baseline``.

        Returns:
            The loss, and ``rows``, ``accuracy`` (x > z where desirable, x < z elsewhere, a tie is half), ``desirable``,
            ``undesirable`` (numbers of rows), ``reward_desirable``, ``reward_undesirable`` (beta x of either kind),
            ``baseline`` (z).
        """
        weights, good = tensors["row_weight"][:, 0], tensors["label"][:, 0] > 0.5
        real = xp.where(weights > 0, xp.ones_like(weights), 0.0)
        gap = self.scores(xp, logps, tensors) - self.beta * tensors["baseline"][:, 0]
        side = xp.where(good, gap, -gap)
        importance = xp.where(good, self.desirable * real, self.undesirable * real)
        liked = xp.where(good, real, 0.0)
        reward = xp.stop_gradient(gap) + self.beta * tensors["baseline"][:, 0]
        return xp.sum(weights * importance * (1.0 - sigmoid(xp, side))), {
            "rows": xp.sum(real),
            "accuracy": xp.sum(right(xp, side) * real),
            "desirable": xp.sum(liked),
            "undesirable": xp.sum(real - liked),
            "reward_desirable": xp.sum(liked * reward),
            "reward_undesirable": xp.sum((real - liked) * reward),
            "baseline": xp.sum(real * tensors["baseline"][:, 0]),
        }

    def scores(self, xp: Any, logps: Any, tensors: Mapping[str, Any]) -> Any:
        """beta x log-ratio of each row ``[N]``."""
        trained = tensors["mask"] > 0
        return self.beta * xp.sum(xp.where(trained, logps - tensors["ref_logps"], 0.0), axis=1)

    def threshold(self, tensors: Mapping[str, Any]) -> Any:
        """The score ``[N]`` above which a row counts as desirable: beta z."""
        return self.beta * tensors["baseline"][:, 0]
