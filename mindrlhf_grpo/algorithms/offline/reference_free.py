"""SimPO and ORPO: preferences on average log-probs, without a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...losses.preference import Sigmoid, log_sigmoid
from ..objective import Instead, Objective


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


OBJECTIVES = (
    Objective(
        name="simpo",
        loss=SimPO,
        source="arXiv:2405.14734",
        peers="trl: CPO simpo",
        presets={"trl": Instead(objective="simpo", values={"beta": 0.1, "gamma": 0.5, "sft_coef": 1.0})},
    ),
    Objective(name="orpo", loss=ORPO, source="arXiv:2403.07691", peers="trl: ORPO"),
)
