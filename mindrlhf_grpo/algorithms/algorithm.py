"""The record of an online algorithm: which advantages, which policy loss, and the settings it prescribes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ..advantages import Estimator, reads
from ..backend import Loss
from ..losses import PolicyLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """An online algorithm.

    Attributes:
        name: how a configuration names it (``algorithm.name``).
        estimator: from the rewards of the batch to an advantage for each completion or item; the names of its
            parameters say what it reads, see ``advantages.EstimatorInputs``.
        formula, source, peers: its row in the tables of the documentation, as Markdown.
        loss: class of the policy loss, unless the configuration names another.
        other_losses: further losses that this algorithm brings.
        returns: what a token gets: the ``same`` advantage as its completion or item, the ``sum`` of the token rewards
            from it on, or the ``gae`` of these and a critic's values.
        group_size: smallest number of completions per prompt that it can compare.
        per_component: whether it compares each reward component by itself, so that no total reward exists.
        prescribes: settings that win over any preset, by their configuration key.
    """

    name: str
    estimator: Estimator
    formula: str = ""
    source: str = ""
    peers: str = ""
    loss: Callable[..., Loss] = PolicyLoss
    other_losses: tuple[type[PolicyLoss], ...] = ()
    returns: Literal["same", "sum", "gae"] = "same"
    group_size: int = 2
    per_component: bool = False
    prescribes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def needs(self) -> frozenset[str]:
        """``critic`` and ``greedy`` (a greedy completion of each prompt), where it reads them."""
        needs = {"critic"} if self.returns == "gae" else set()
        return frozenset(needs | ({"greedy"} if "baselines" in reads(self.estimator) else set()))
