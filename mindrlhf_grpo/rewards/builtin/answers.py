"""Where the reference answer of a row and the answer of a completion are found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...errors import DataError

COLUMNS = ("answer", "solution")
BOX = r"\boxed{"


def reference_column(names: Collection[str], column: str | None) -> str:
    """The column of reference answers: ``column``, or else ``answer``, or else ``solution``.

    Raises:
        DataError: there is no such column among ``names``.
    """
    for name in (column,) if column else COLUMNS:
        if name in names:
            return name
    wanted = repr(column) if column else " or ".join(map(repr, COLUMNS))
    raise DataError(
        f"no column {wanted} with reference answers (argument 'column' names another); "
        f"columns there are: {', '.join(names) or 'none'}"
    )


def references(columns: Mapping[str, list[Any]], column: str | None) -> list[Any]:
    """The reference answer of every sample, see ``reference_column``."""
    return columns[reference_column(columns.keys(), column)]


def tagged(completion: str, tag: str | None) -> str | None:
    """Text of the last ``<tag>...</tag>``, stripped; the whole completion without a tag; None if it is not there."""
    if tag is None:
        return completion.strip()
    end = completion.rfind(f"</{tag}>")
    start = completion.rfind(f"<{tag}>", 0, max(end, 0))
    return completion[start + len(tag) + 2 : end].strip() if start >= 0 else None


def after_marker(reference: str) -> str:
    """A reference as a bare answer: what follows the last ``####``, as GSM8K writes it."""
    return reference.rpartition("####")[2].strip()


def last_box(text: str) -> str | None:
    """What the last ``\\boxed{...}`` holds, braces matched; None without a whole one."""
    start = text.rfind(BOX)
    depth = 0
    for place in range(start + len(BOX) - 1, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len(BOX) : place].strip()
    return None
