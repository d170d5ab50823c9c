"""Values of rows in the forms that public data sets write them in, brought to one form.

What cannot be read is raised as DataError without its place, which the caller knows.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError

USERS = ("user", "human")
WRAPPED = ("value", "ground_truth")


def prompt_text(value: Any) -> str:
    """The first user message, as text without the mark of an image."""
    if isinstance(value, Mapping) and "value" in value:
        return prompt_text(value["value"])
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


def unwrapped(value: Any) -> Any:
    """A reference out of what it may be wrapped in: a dict, a list of one, or the text of such a list."""
    if isinstance(value, Mapping) and "kind" not in value:
        for key in WRAPPED:
            if key in value:
                return unwrapped(value[key])
        raise DataError(f"its reference has none of {', '.join(WRAPPED)}: {', '.join(map(str, value))}")
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 1
        and isinstance(value[0], str | int | float)
    ):
        return unwrapped(value[0])
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        return unwrapped(parsed) if isinstance(parsed, list) and len(parsed) == 1 else value
    return value


def listed(value: Any) -> list[Any]:
    """Images: one, several or none."""
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]


def located(image: Any, folder: Path) -> Any:
    """An image's path from the folder of the data file; other forms as they are."""
    if isinstance(image, str) and len(image) < 4096 and not image.startswith("data:") and (folder / image).is_file():
        return str((folder / image).resolve())
    return image
