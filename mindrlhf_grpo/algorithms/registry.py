"""Every algorithm, policy loss and offline objective by name: found by a scan of ``online`` and ``offline``.

Nothing is listed twice: a new file with a record is found, and its loss with it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from ..losses import PolicyLoss
from . import offline, online
from .algorithm import Algorithm
from .objective import Objective

T = TypeVar("T")


def scan(package: ModuleType, attribute: str) -> Iterator[Any]:
    """The attribute of every module of a package, in the order of their names."""
    for module in pkgutil.iter_modules(package.__path__):
        yield getattr(import_module(f"{package.__name__}.{module.name}"), attribute)


def by_name(entries: Iterable[T], name: Callable[[T], str]) -> dict[str, T]:
    """Entries by name, each once. Raises ValueError for a name that two different entries have."""
    named: dict[str, T] = {}
    for entry in entries:
        if named.setdefault(name(entry), entry) is not entry:
            raise ValueError(f"two entries are called {name(entry)!r}: {named[name(entry)]} and {entry}")
    return named


def policy_losses(algorithms: Iterable[Algorithm]) -> Iterator[type[PolicyLoss]]:
    """The losses of algorithms, PPO's first."""
    yield PolicyLoss
    for algorithm in algorithms:
        if isinstance(algorithm.loss, type) and issubclass(algorithm.loss, PolicyLoss):
            yield algorithm.loss
        yield from algorithm.other_losses


ALGORITHMS: dict[str, Algorithm] = by_name(scan(online, "ALGORITHM"), lambda entry: entry.name)
POLICY_LOSSES: dict[str, type[PolicyLoss]] = by_name(policy_losses(ALGORITHMS.values()), lambda loss: loss.name)
OBJECTIVES: dict[str, Objective] = by_name(
    (objective for family in scan(offline, "OBJECTIVES") for objective in family), lambda entry: entry.name
)
ALIASES: dict[str, str] = {alias: name for name, entry in OBJECTIVES.items() for alias in entry.aliases}
