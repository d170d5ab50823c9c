"""Regular expression: the completion contains or matches a pattern.

A pattern that may backtrack without end on some completion needs a ``timeout``.
"""

from __future__ import annotations

import re
from typing import Literal


def regex(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    pattern: re.Pattern[str],
    where: Literal["anywhere", "start", "whole"] = "anywhere",
) -> list[float]:
    """Return 1 where the pattern matches anywhere in the completion, at its start, or as a whole; else 0."""
    compiled = re.compile(pattern)
    match = {"anywhere": compiled.search, "start": compiled.match, "whole": compiled.fullmatch}[where]
    return [float(match(completion) is not None) for completion in completions]
