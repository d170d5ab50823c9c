"""Preference losses over pairs: the log-ratio of a chosen completion should exceed that of a rejected one.

The skeleton, with DPO in it, makes a log-ratio log pi/ref of each completion, summed over its tokens or averaged, and a
variant (``algorithms/offline``) turns those of a pair into its loss. Row 2i is chosen, row 2i+1 rejected (``Batch.coupled``). ``row_weight`` carries
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
    """1 where a gap is above 0, 0 below, 1/2 for a tie, so that an untrained policy, equal to its reference, scores 1/2."""
    return 0.5 + 0.5 * xp.sign(xp.stop_gradient(gap))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """DPO, -log sigmoid(beta h) with h = chosen - rejected log-ratio: https://arxiv.org/abs/2305.18290.

    TRL's ``sigmoid`` accepts a label smoothing and ignores it; here only losses that read one have it (``CDPO``).

    Attributes:
        beta: strength of the pull towards the reference.
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
