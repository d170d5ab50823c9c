"""Prompts and references in the forms that public datasets write them in, brought to one form.

A value that cannot be read raises DataError without its place, which the caller knows.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import DataError

USERS = ("user", "human")
WRAPPED = ("value", "ground_truth")


def first_user_text(value: Any) -> str:
    """Return the first user message as text, without image markers."""
    if isinstance(value, Mapping) and "value" in value:
        return first_user_text(value["value"])
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        users = [turn for turn in value if isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in USERS]
        if not users:
            raise DataError("its prompt has no user message")
        value = users[0].get("content", users[0].get("value"))
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [part for part in value if isinstance(part, Mapping) and part.get("type") == "text"]
        value = "\n".join(str(part.get("text", "")) for part in parts)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"its prompt is {'empty' if isinstance(value, str) else type(value).__name__}")
    return value.replace("<image>", "").strip()


def unwrap_reference(value: Any) -> Any:
    """Return a reference without its wrapping: a dict, a list of one item, or the text of such a list."""
    if isinstance(value, Mapping) and "kind" not in value:
        for key in WRAPPED:
            if key in value:
                return unwrap_reference(value[key])
        raise DataError(f"its reference has none of {', '.join(WRAPPED)}: {', '.join(map(str, value))}")
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 1
        and isinstance(value[0], str | int | float)
    ):
        return unwrap_reference(value[0])
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        return unwrap_reference(parsed) if isinstance(parsed, list) and len(parsed) == 1 else value
    return value
