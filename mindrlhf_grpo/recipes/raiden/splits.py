"""Samples divided into training and validation data, and written with their statistics."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...json_lines import digest_of, replace_json
from .rewards import SINGLE

T = TypeVar("T")
COUNTED = ("validation_method", "difficulty", "question_type", "source", "language")


def statistics(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count samples: in all, and by validation method, difficulty, question type, source and language."""
    flat = [{**sample, **sample["metadata"]} for sample in samples]
    counts: dict[str, Any] = {name: dict(Counter(sample[name] for sample in flat)) for name in COUNTED}
    single = counts["validation_method"].get(SINGLE, 0)
    return {"total": len(samples), "single_term": single, "multi_term": len(samples) - single, **counts}


def without_repeats(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the samples without those whose character, history, question and answer an earlier one has."""
    kept: dict[str, Mapping[str, Any]] = {}
    for sample in samples:
        said = [sample[name] for name in ("character_profile", "conversation_history", "question", "answer")]
        kept.setdefault(digest_of(said), sample)
    return list(kept.values())


def write_dataset(
    folder: Path, samples: Sequence[Mapping[str, Any]], train_ratio: float, seed: int, by: str
) -> dict[str, int]:
    """Write ``train.json``, ``validation.json`` and ``dataset_stats.json``; returns the sizes of the two parts."""
    character = None if by == "sample" else lambda sample: digest_of(sample["character_profile"])
    train, validation = split(samples, train_ratio, seed=seed, together=character)
    for name, content in (("train", train), ("validation", validation), ("dataset_stats", statistics(samples))):
        replace_json(folder / f"{name}.json", content)
    return {"train": len(train), "validation": len(validation)}


def split(
    items: Sequence[T], share: float, *, seed: int, together: Callable[[T], str] | None = None
) -> tuple[list[T], list[T]]:
    """Shuffle the items and return the first ``int(n * share)`` of them, and the others; the same for the same seed.

    Args:
        together: gives each item a text; items with the same text stay together, and ``n`` counts these texts.

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
