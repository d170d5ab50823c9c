"""reasoning-gym tasks scored by their own verifier (https://github.com/open-thought/reasoning-gym)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .answers import tagged


def reasoning_gym(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    task: list[str],
    entry: list[Any],
    tag: str | None = None,
) -> list[float | None]:
    """Return the task's own score of the answer, in 0..1; None for rows that are not a reasoning-gym task.

    Args:
        task, entry: columns of the source ``reasoning_gym:TASK``: name of the task, and its entry (a mapping, or the
            same as JSON text).
        tag: the answer is the text of the last ``<tag>...</tag>`` (0 without one); default: the completion.
    """
    rows = zip(completions, task, entry, strict=True)
    return [
        None if name is None or item is None else _score(tagged(text, tag), name, item) for text, name, item in rows
    ]


def prepare() -> None:
    """Import reasoning-gym, which takes some seconds."""
    import reasoning_gym  # noqa: F401


def _score(answer: str | None, task: str, entry: Any) -> float:
    if answer is None:
        return 0.0
    return float(_scorer(task)(answer, json.loads(entry) if isinstance(entry, str) else entry))


@lru_cache(maxsize=64)
def _scorer(task: str) -> Callable[[str, Any], float]:
    from reasoning_gym import get_score_answer_fn

    scorer: Callable[[str, Any], float] = get_score_answer_fn(task)
    return scorer
