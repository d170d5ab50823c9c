"""Film titles on two sides of a comparison: one way to fold them, one to look them up; files of titles with years."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from .plain_tables import read_table

ARTICLES = ("the ", "a ", "an ")
AROUND = " \t\r\n*_#\"'“”‘’`-–—•,:;"  # markup, quotes and bullets that may stand around a title


def fold(title: str) -> str:
    """A title for exact comparison: case, spaces and what stands around it do not count."""
    return " ".join(str(title).split()).casefold().strip(AROUND)


def normalise(title: str) -> str:
    """A title for the oracle: lower case, without leading article and punctuation, single spaces."""
    lowered = " ".join(str(title).casefold().split())
    article = next((article for article in ARTICLES if lowered.startswith(article)), "")
    return " ".join(re.sub(r"[^\w\s]|_", "", lowered.removeprefix(article)).split())


def lookup_key(title: str) -> str:
    """:func:`normalise` without spaces, so that maps made with a space for each punctuation mark match too."""
    return normalise(re.sub(r"[^\w\s]|_", " ", str(title))).replace(" ", "")


def year_of(value: Any) -> int | None:
    """A year given as number or text; None where it is neither."""
    text = str(value).strip().removesuffix(".0")
    return int(text) if re.fullmatch(r"\d{1,4}", text) else None


def load_catalog(path: str | Path) -> frozenset[tuple[str, int]]:
    """The films that may be recommended, as folded title and year: JSON ``[[title, year], ...]`` or a pickled set.

    Raises:
        DataError: no such file, a pickle with anything but plain values, or entries without a year.
    """
    return frozenset((fold(title), year) for title, year, *_ in pairs(read_table(Path(path)), str(path)))


def pairs(table: Any, name: str) -> list[tuple[str, int, Any]]:
    """(title, year, value) of a table: rows, or a mapping from (title, year), from ``Title (1999)`` or ``title|1999``."""
    entries: Iterable[Any] = table
    if isinstance(table, Mapping):
        entries = [(*(key if isinstance(key, tuple) else split_key(str(key))), value) for key, value in table.items()]
    found = []
    for entry in entries:
        row = list(entry.values()) if isinstance(entry, Mapping) else entry
        year = year_of(row[1]) if isinstance(row, (list, tuple)) and len(row) > 1 else None
        if year is None:
            raise DataError(f"{name}: {entry!r} is no title with a year")
        found.append((str(row[0]), year, row[2] if len(row) > 2 else None))
    return found


def split_key(key: str) -> tuple[str, str]:
    """Title and year of ``Title (1999)`` or ``title|1999``."""
    title, _, year = key.rstrip(") ").replace("(", "|").rpartition("|")
    return title, year
