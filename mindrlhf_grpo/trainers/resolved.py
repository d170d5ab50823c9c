"""The numbers that a run computes with where its configuration leaves them to a preset, an objective or a share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..algorithms.plan import resolve
from ..algorithms.task import resolve_objective
from ..config.file import AnyConfig
from ..config.offline import OfflineConfig
from .schedule import learning_rate, warmup_steps


def resolved_settings(config: AnyConfig) -> dict[str, Any]:
    """The content of ``RUN/resolved.yaml``: plain values under the names of the configuration.

    ``algorithm`` has the keys that a preset fills and the loss with its own numbers, ``objective`` its loss; ``train``
    has the steps of warm-up and the learning rate of the first and the last step.
    """
    train = config.train
    rates = {
        "warmup_steps": warmup_steps(train),
        "first_learning_rate": learning_rate(train, 1),
        "last_learning_rate": learning_rate(train, train.steps),
    }
    if isinstance(config, OfflineConfig):
        task = resolve_objective(config)
        return {"objective": {"name": config.objective.name, "loss": loss_of(task.loss)}, "train": rates}
    plan = resolve(config.algorithm)
    algorithm = {**asdict(plan.settings), "needs": sorted(plan.needs), "loss": loss_of(plan.loss)}
    return {"algorithm": plain(algorithm), "train": rates}


def loss_of(loss: Any) -> dict[str, Any]:
    """Name and numbers of a loss; a user's loss may be any callable."""
    name = getattr(loss, "name", "") or type(loss).__name__
    numbers = {field: getattr(loss, field) for field in getattr(loss, "__dataclass_fields__", {})}
    return {"name": str(name), **plain(numbers)}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as YAML has them; what is none of its kinds is written as text."""
    kinds = (bool, int, float, str, type(None), list, dict)
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: value if isinstance(value, kinds) else str(value) for name, value in lists.items()}
