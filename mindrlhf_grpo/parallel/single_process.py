"""The process group of a run that is one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Gradients = TypeVar("Gradients")
T = TypeVar("T")


class SingleProcess:
    """Implements ``backend.Comm`` without other ranks; backends also sum gradients through it."""

    rank, world_size = 0, 1

    @property
    def rows(self) -> SingleProcess:
        """Implements ``backend.RowRanks`` too."""
        return self

    def once(self, compute: Callable[[], T]) -> T:
        return compute()

    def gather_objects(self, item: Any) -> list[Any]:
        return [item]

    def barrier(self) -> None:
        return

    def close(self) -> None:
        return

    def abandon(self) -> None:
        return

    def sum_gradients(self, gradients: Gradients) -> Gradients:
        return gradients
