"""Reward models: the score of a row is its value at its last token, which ``last`` marks.

Pairs stand as in ``losses/preference.py``: row 2i chosen, row 2i+1 rejected; ``row_weight`` carries 1 / pairs (or 1 / rows)
of the global batch. Legend: N rows, T tokens, n = N // 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses.preference import log_sigmoid, right
from ..objective import Objective


def row_scores(xp: Any, values: Any, tensors: Mapping[str, Any]) -> Any:
    """Value of each row at its last token ``[N]``; 0 for padding rows."""
    return xp.sum(xp.where(tensors["last"] > 0, values, 0.0), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BradleyTerry:
    """-log sigmoid(s_chosen - s_rejected - margin) + centering (s_chosen + s_rejected)^2, mean over pairs.

    Margins: Touvron et al. 2023, https://arxiv.org/abs/2307.09288; centering: Eisenstein et al. 2023,
    https://arxiv.org/abs/2312.09244 (TRL ``center_rewards_coefficient``).

    Attributes:
        centering: draws the scores of a pair around 0, which their difference leaves open; 0: off.
    """

    centering: float = 0.0

    counted_by: ClassVar[str] = "pairs"
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, values: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) and sums over the pairs of the micro-batch.

        Args:
            values: of the model ``[N, T]``.
            tensors: ``last``, ``row_weight``, and ``margin`` where rows have one.

        Returns:
            The loss, and ``pairs``, ``accuracy`` (chosen scored above rejected, a tie is half), ``margin`` (s_chosen - s_rejected),
            ``score_chosen``, ``score_rejected``.
        """
        n = values.shape[0] // 2
        scores = row_scores(xp, values, tensors)
        chosen, rejected = scores[0 : 2 * n : 2], scores[1 : 2 * n : 2]
        weights = tensors["row_weight"][0 : 2 * n : 2, 0]
        real = xp.where(weights > 0, xp.ones_like(weights), 0.0)
        losses = self.losses(xp, chosen - rejected, tensors)
        if self.centering > 0:
            losses = losses + self.centering * xp.square(chosen + rejected)
        gap = xp.stop_gradient(chosen - rejected)
        return xp.sum(weights * losses), {
            "pairs": xp.sum(real),
            "accuracy": xp.sum(right(xp, gap) * real),
            "margin": xp.sum(real * gap),
            "score_chosen": xp.sum(real * xp.stop_gradient(chosen)),
            "score_rejected": xp.sum(real * xp.stop_gradient(rejected)),
        }

    def losses(self, xp: Any, gap: Any, tensors: Mapping[str, Any]) -> Any:
        """Loss of each pair ``[n]`` from the difference of scores ``[n]``."""
        if "margin" in tensors:
            n = tensors["margin"].shape[0] // 2
            gap = gap - tensors["margin"][0 : 2 * n : 2, 0]
        return -log_sigmoid(xp, gap)

    def scores(self, xp: Any, values: Any, tensors: Mapping[str, Any]) -> Any:
        """Score of each row ``[N]``."""
        return row_scores(xp, values, tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogExp(BradleyTerry):
    """log(1 + exp(s_rejected - s_chosen)): OpenRLHF's ``logexp``, which takes margins and does not use them.

    Without margins it equals ``BradleyTerry``.
    """

    def losses(self, xp: Any, gap: Any, tensors: Mapping[str, Any]) -> Any:
        return xp.logaddexp(xp.zeros_like(gap), -gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossEntropy:
    """-y log sigmoid(s) - (1 - y) log sigmoid(-s) on single labelled rows, mean over rows."""

    counted_by: ClassVar[str] = "rows"
    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, values: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loss (scalar) and sums over rows.

        Args:
            values: of the model ``[N, T]``.
            tensors: ``last``, ``row_weight``, ``label`` in 0..1.

        Returns:
            The loss, and ``rows``, ``accuracy`` (sign of the score agrees with the label, a tie is half), ``score``, ``label``.
        """
        scores = row_scores(xp, values, tensors)
        weights, labels = tensors["row_weight"][:, 0], tensors["label"][:, 0]
        real = xp.where(weights > 0, xp.ones_like(weights), 0.0)
        losses = -labels * log_sigmoid(xp, scores) - (1.0 - labels) * log_sigmoid(xp, -scores)
        return xp.sum(weights * losses), {
            "rows": xp.sum(real),
            "accuracy": xp.sum(right(xp, scores * (labels - 0.5)) * real),
            "score": xp.sum(real * xp.stop_gradient(scores)),
            "label": xp.sum(real * labels),
        }

    def scores(self, xp: Any, values: Any, tensors: Mapping[str, Any]) -> Any:
        """Score of each row ``[N]``."""
        return row_scores(xp, values, tensors)


OBJECTIVES = (
    Objective(
        name="bradley_terry",
        loss=BradleyTerry,
        model="value",
        source="arXiv:2203.02155",
        peers="trl RewardTrainer; openrlhf --loss sigmoid",
        aliases=("reward_model", "rm"),
        reads_margin=True,
    ),
    Objective(name="logexp", loss=LogExp, model="value", source="arXiv:2204.05862", peers="openrlhf --loss logexp"),
    Objective(
        name="bce",
        rows="labelled",
        loss=BinaryCrossEntropy,
        model="value",
        source="cross-entropy",
        peers="trl: PRM-like labels on whole completions",
    ),
)
