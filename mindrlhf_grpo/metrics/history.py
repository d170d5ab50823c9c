"""The metrics of a run so far, and an alarm: a pure function of them, so that a resumed run sounds the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Point = tuple[int, float]  # step and value
TOGETHER = (
    "reward/mean", "reward/drawn_mean", "reward/failed_frac", "reward/unscored_frac", "dead_group_frac", "prompts",
    "prompts/drawn", "truncated_frac", "tokens/trained", "updates", "rows", "critic/loss", "grad_norm", "lr",
    "weights/changed_frac",
)  # fmt: skip


@dataclass(slots=True)
class History:
    """The metrics so far.

    Attributes:
        watched: metric of an evaluation -> 1 where more is better, -1 where less is.
        full_marks: the reward of a completion whose components are all 1, as far as their weights tell.
        series: metric name -> (step, value) in order, finite ones only.
        steps: the metrics of TOGETHER of each training step, in order.
        reasons: reward component -> why the first of its samples failed, in the last step.
    """

    watched: Mapping[str, int] = field(default_factory=dict)
    full_marks: float = math.inf
    series: dict[str, list[Point]] = field(default_factory=dict)
    steps: list[Mapping[str, float]] = field(default_factory=list)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def add(self, step: int, metrics: Mapping[str, Any], reasons: Mapping[str, str] | None = None) -> None:
        """Take a step's metrics; step 0 is the evaluation before training."""
        finite = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        for name, value in finite.items():
            self.series.setdefault(name, []).append((step, value))
        if step:
            self.steps.append({name: finite[name] for name in TOGETHER if name in finite})
        self.reasons = reasons or {}

    def values(self, name: str) -> list[float]:
        return [value for _, value in self.series.get(name, ())]

    def last(self, condition: Callable[[Mapping[str, float]], bool]) -> Iterator[Mapping[str, float]]:
        """The steps, newest first, back to the last one that does not meet a condition."""
        for metrics in reversed(self.steps):
            if not condition(metrics):
                return
            yield metrics


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm.

    Attributes:
        sounds: returns a description of the problem; "" or None while there is none, None also while there is too
            little data.
        metrics: the curves that show it, as patterns.
        page: the page of the documents that explains it.
        evaluated: whether only evaluations can change it.
        stops: whether the run ends when it sounds, unless ``train.on_alarm`` is ``warn``.
    """

    name: str
    sounds: Callable[[History], str | None]
    metrics: tuple[str, ...]
    page: str
    evaluated: bool = False
    stops: bool = False
