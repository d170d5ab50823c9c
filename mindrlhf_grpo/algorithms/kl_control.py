"""The coefficient of a KL penalty in the reward over a run: fixed, or steered to a target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CheckpointError

MOST = 0.2  # largest relative error that one step corrects


@dataclass(slots=True, kw_only=True)
class KlControl:
    """coef *= 1 + clip(KL / target - 1, -0.2, 0.2) n / horizon after each batch of n completions.

    Ziegler et al., https://arxiv.org/abs/1909.08593; TRL, verl and OpenRLHF the same. A target of 0 keeps it fixed.

    Attributes:
        coef: the coefficient now, 0 or more.
        target: KL per completion to steer to; 0: fixed.
        horizon: completions over which the coefficient adapts.
    """

    coef: float
    target: float = 0.0
    horizon: int = 10000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.coef) and self.coef >= 0 and self.target >= 0 and self.horizon >= 1):
            raise ValueError(f"coef and target must be 0 or more and horizon at least 1, not {self}")

    def update(self, kl: float, completions: int) -> None:
        """Adapt to the mean KL per completion of a batch; a KL that is not finite changes nothing."""
        if self.target > 0 and math.isfinite(kl):
            error = min(max(kl / self.target - 1.0, -MOST), MOST)
            self.coef *= 1.0 + error * completions / self.horizon

    def state(self) -> dict[str, float]:
        """The state that resuming needs, for JSON."""
        return {"coef": self.coef}

    def restore(self, state: Mapping[str, float]) -> None:
        """Restore what :meth:`state` returned. Raises CheckpointError if it holds no coefficient."""
        coef = state.get("coef")
        if not isinstance(coef, int | float) or not math.isfinite(coef) or coef < 0:
            raise CheckpointError(f"the state of the KL controller holds no coefficient: {dict(state)}")
        self.coef = float(coef)
