"""Finds the reference answer of a row and the answer in a completion."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ...errors import DataError

COLUMNS = ("answer", "solution")
BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?:[ \t]{0,4}\{|[ \t]{1,4}(?=[^\s{]))")


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


def first_box(text: str) -> int:
    """Return the place of the first box, complete or not; -1 without one."""
    match = BOX.search(text)
    return -1 if match is None else match.start()


def last_box(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}``, with matched braces; None without one, or if it is not complete.

    ``\fbox`` and ``\framebox`` are boxes too, and ``\boxed 7`` holds the one sign or number after it.
    """
    last = None
    for last in BOX.finditer(text):  # noqa: B007 - only the last match is used
        pass
    if last is None:
        return None
    if not last[0].endswith("{"):
        return re.split(r"[\s$]", text[last.end() : last.end() + 100], maxsplit=1)[0].rstrip(".,;")
    depth = 0
    for place in range(last.end() - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[last.end() : place].strip()
    return None
