"""KTO: prospect theory on single completions labelled good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...batches.offline import Denominators, build_offline_batch
from ...data.examples import Example
from ...losses.preference import right, sigmoid
from ..batch_constants import BatchContext, totals
from ..objective import Objective


def baseline(before: BatchContext) -> dict[str, NDArray[np.float64]]:
    """KTO's z: mean log-ratio of completions under the prompt of the next row, at least 0; the same for every row.

    A batch of one row (the rest of a held-out set) has no other prompt: z is 0.
    """
    examples = before.examples
    if len(examples) == 1:
        return {"baseline": np.zeros(len(before.batch))}
    wrong = [
        Example(uid=one.uid, row=one.row, prompt=one.prompt, completions=examples[place - 1].completions)
        for place, one in enumerate(examples)
    ]
    share = wrong[before.share.start : before.share.stop]
    batch = build_offline_batch(share, Denominators.of(wrong))
    local = totals(before.logps(batch), batch.mask) - totals(before.ref_logps(batch), batch.mask)
    mean = float(before.everywhere(local).mean())
    return {"baseline": np.full(len(before.batch), max(0.0, mean))}


@dataclass(frozen=True, slots=True, kw_only=True)
class KTO:
    """Prospect theory on single rows labelled good or bad: https://arxiv.org/abs/2402.01306.

    Desirable: w (1 - sigmoid(beta (x - z))), undesirable: w (1 - sigmoid(beta (z - x))); x is the summed log-ratio,
    z the KL estimated on mismatched completions, at least 0: ``baseline``, a constant made by the host
    (``prepare`` of its record).

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


OBJECTIVES = (
    Objective(
        name="kto",
        rows="labelled",
        loss=KTO,
        source="arXiv:2402.01306",
        peers="trl: kto; openrlhf train_kto",
        prepare=baseline,
        min_rows=2,
    ),
)
