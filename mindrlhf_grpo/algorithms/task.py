"""An offline objective with its numbers: what a configuration comes to.

``resolve_objective`` turns the configuration into a ``Task``; trainers and backends know nothing of objectives beyond
it. A key set in the configuration wins over the preset, that over the loss's own default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.offline import ObjectiveConfig, OfflineConfig
from ..data.row_encoders import Encoder, encode_labelled, encode_pair, encode_supervised
from ..errors import ConfigError
from ..types import FloatArray
from .objective import OPTIONS, Instead, Objective, OfflineLoss
from .references import OBJECTIVE, load, unknown
from .registry import ALIASES, OBJECTIVES
from .user_objective import check_objective, user_objective

ENCODERS: dict[str, Encoder] = {
    "conversations": encode_supervised,
    "pairs": encode_pair,
    "labelled": encode_labelled,
}


DIVISORS = {"reward_desirable": "desirable", "reward_undesirable": "undesirable"}  # else what the loss counts by


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An objective with its numbers.

    Attributes:
        loss: called as ``loss(xp, outputs, tensors)``.
        needs_reference: whether the batch carries the reference's log-probs.
    """

    objective: Objective
    loss: OfflineLoss
    needs_reference: bool

    @property
    def pairs(self) -> bool:
        return self.objective.rows == "pairs"

    @property
    def encoder(self) -> Encoder:
        return ENCODERS[self.objective.rows]

    @property
    def headline(self) -> str:
        """The held-out metric that a run is judged by; less is better for ``nll``."""
        return "nll" if self.loss.counted_by == "tokens" else "accuracy"

    @property
    def better(self) -> int:
        """1 where more of the headline metric is better, else -1."""
        return -1 if self.headline == "nll" else 1

    def threshold(self, tensors: Mapping[str, Any]) -> Any:
        """Score above which a single row counts as good ``[N]``, or 0."""
        threshold = getattr(self.loss, "threshold", None)
        return 0.0 if threshold is None else threshold(tensors)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics from the sums of a loss: means over pairs, rows or tokens."""
        figures: dict[str, float] = {}
        for name, total in sums.items():
            divisor = DIVISORS.get(name, self.loss.counted_by)
            if name not in ("tokens", "entropy", divisor):
                figures[name.replace("_", "/", 1)] = total / max(1.0, sums.get(divisor, 0.0))
        if "nll" in figures:
            figures["perplexity"] = math.exp(min(50.0, figures["nll"]))
        return figures

    def scores(self, xp: Any, outputs: Any, tensors: Mapping[str, Any]) -> FloatArray | None:
        """Reward of each row ``[N]``; None where the loss gives none."""
        scores = getattr(self.loss, "scores", None)
        rewards: FloatArray | None = None if scores is None else scores(xp, outputs, tensors)
        return rewards


def find_objective(name: str) -> Objective:
    """The record of a built-in objective, or a user's, checked.

    Raises:
        ConfigError: unknown name, or something else than an objective.
    """
    built_in = OBJECTIVES.get(ALIASES.get(name, name))
    return built_in if built_in is not None else user_objective(load(OBJECTIVE, name, OBJECTIVES, also=ALIASES), name)


def preset_names() -> list[str]:
    """The presets that some objective has."""
    return list(dict.fromkeys(preset for objective in OBJECTIVES.values() for preset in objective.presets))


def with_preset(config: ObjectiveConfig) -> tuple[Objective, Mapping[str, float]]:
    """The objective a configuration names, and the numbers its preset fills in.

    Raises:
        ConfigError: unknown name or preset.
    """
    objective = find_objective(config.name)
    if config.preset is None:
        return objective, {}
    if config.preset not in preset_names():
        raise ConfigError(unknown("objective.preset", config.preset, preset_names()))
    instead = objective.presets.get(config.preset, Instead(objective=objective.name, values={}))
    return OBJECTIVES.get(instead.objective, objective), instead.values


def resolve_objective(config: OfflineConfig) -> Task:
    """The task a configuration asks for.

    Raises:
        ConfigError: unknown name or preset, an option its loss does not read, settings that do not go together, or
            user-defined code that fails on literal rows.
    """
    objective, values = with_preset(config.objective)
    all_options = {name: getattr(config.objective, name) for name in OPTIONS}
    explicit = {name: value for name, value in all_options.items() if value is not None}
    for name in explicit:
        if name not in objective.options:
            raise ConfigError(not_read(name, objective))
    loss = objective.loss(**{**values, **explicit})
    compared = getattr(loss, "compared", False) and not getattr(loss, "reference_free", False)
    task = Task(objective=objective, loss=loss, needs_reference=bool(compared))
    check_task(task, config)
    if objective not in OBJECTIVES.values():
        check_objective(objective, loss, config.objective.name, needs_reference=task.needs_reference)
    return task


def check_task(task: Task, config: OfflineConfig) -> None:
    """Refuse combinations that would not do what they say."""
    objective, stored = task.objective, config.objective.reference_logps == "stored"
    if stored and not task.needs_reference:
        raise ConfigError(
            f"objective.reference_logps: stored does not go with {objective.name}, which has no reference"
        )
    if stored and objective.rows != "pairs":
        raise ConfigError(
            f"objective.reference_logps: stored does not go with {objective.name}: its baseline asks the reference about "
            "other completions in every batch; set on_the_fly"
        )
    if config.train.prompts_per_step < objective.min_rows:
        raise ConfigError(
            f"train.prompts_per_step is {config.train.prompts_per_step}: {objective.name} estimates its baseline on "
            f"completions of other rows of the batch and needs at least {objective.min_rows}"
        )
    if "margin" in config.data.columns and not objective.reads_margin:
        readers = ", ".join(name for name, entry in OBJECTIVES.items() if entry.reads_margin)
        raise ConfigError(f"data.columns names a margin, which {objective.name} does not read; {readers} does")


def not_read(option: str, objective: Objective) -> str:
    """The error for an option that the loss does not read."""
    readers = ", ".join(name for name, entry in OBJECTIVES.items() if option in entry.options)
    hint = f" ({objective.hints[option]})" if option in objective.hints else ""
    return f"objective.{option} is not read by {objective.name}; accepted with: {readers}{hint}"
