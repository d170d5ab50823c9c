"""Items split in two at random, the same way for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def split(
    items: Sequence[T], share: float, *, seed: int, together: Callable[[T], str] | None = None
) -> tuple[list[T], list[T]]:
    """The items shuffled; the first ``int(n * share)`` of them, and the others.

    Args:
        together: items with the same text stay on one side; then these texts are shuffled and counted.

    Raises:
        ValueError: ``share`` is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share {share} is not in 0..1")
    keys = [str(at) if together is None else together(item) for at, item in enumerate(items)]
    order = list(dict.fromkeys(keys))
    random.Random(seed).shuffle(order)
    count = int(len(order) * share + 1e-9)  # 0.29 * 100 is a little below 29
    place = {key: at for at, key in enumerate(order)}
    ranked = sorted(range(len(items)), key=lambda at: place[keys[at]])
    first = [items[at] for at in ranked if place[keys[at]] < count]
    return first, [items[at] for at in ranked if place[keys[at]] >= count]
