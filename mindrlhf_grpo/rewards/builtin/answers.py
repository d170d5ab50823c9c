"""Finds the reference answer of a row and the answer in a completion."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...errors import DataError

COLUMNS = ("answer", "solution")
BOX = r"\boxed{"


def reference_column(names: Collection[str], column: str | None) -> str:
    """Return the column of reference answers: ``column``, else ``answer``, else ``solution``.

    Raises:
        DataError: ``names`` has no such column.
    """
    for name in (column,) if column else COLUMNS:
        if name in names:
            return name
    expected = repr(column) if column else " or ".join(map(repr, COLUMNS))
    raise DataError(
        f"no column {expected} with reference answers (argument 'column' names another); "
        f"columns there are: {', '.join(names) or 'none'}"
    )


def references(columns: Mapping[str, list[Any]], column: str | None) -> list[Any]:
    """Return the reference answer of every sample, see ``reference_column``."""
    return columns[reference_column(columns.keys(), column)]


def tagged(completion: str, tag: str | None) -> str | None:
    """Return the text of the last ``<tag>...</tag>``, None without one; if ``tag`` is None, the stripped completion."""
    if tag is None:
        return completion.strip()
    end = completion.rfind(f"</{tag}>")
    start = completion.rfind(f"<{tag}>", 0, max(end, 0))
    return completion[start + len(tag) + 2 : end].strip() if start >= 0 else None


def after_marker(reference: str) -> str:
    """Return a reference as a bare answer: the text after the last ``####``, as GSM8K writes it."""
    return reference.rpartition("####")[2].strip()


def last_box(text: str) -> str | None:
    """Return the content of the last ``\\boxed{...}``, with matched braces; None without a complete one."""
    start = text.rfind(BOX)
    depth = 0
    for place in range(start + len(BOX) - 1, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len(BOX) : place].strip()
    return None
