"""Repetition: a penalty for repeated n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field


def repetition(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    ngram: Annotated[int, Field(ge=1)] = 3,
    unit: Literal["token", "word"] = "token",
    penalty: Annotated[float, Field(ge=0)] = 1.0,
) -> list[float]:
    """Return ``-penalty * (1 - distinct n-grams / n-grams)``; 0 for a completion shorter than one n-gram.

    Args:
        unit: count over tokens, or over words (split at spaces, case ignored); some scripts have no spaces.
    """
    units: Sequence[Sequence[object]] = (
        completion_ids if unit == "token" else [completion.lower().split() for completion in completions]
    )
    return [0.0 - penalty * repeated(sequence, ngram) for sequence in units]


def repeated(sequence: Sequence[object], ngram: int) -> float:
    """Return the share of a sequence's n-grams that occurred before."""
    count = len(sequence) - ngram + 1
    if count < 1:
        return 0.0
    return 1 - len({tuple(sequence[i : i + ngram]) for i in range(count)}) / count
