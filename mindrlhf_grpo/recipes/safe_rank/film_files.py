"""Files of films: tables in JSON or in pickles that hold plain values only (nothing in a pickle is run), and catalogs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from .titles import fold, year_of

CONTAINERS: dict[tuple[str, str], type] = {("builtins", "set"): set, ("builtins", "frozenset"): frozenset}


class PlainUnpickler(pickle.Unpickler):
    """Unpickles containers, texts and numbers; refuses every class and function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in CONTAINERS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return CONTAINERS[module, name]


def read_table(path: Path) -> Any:
    """Return the content of a JSON file, or of a pickle (``.pkl``) of plain values.

    Raises:
        DataError: the file is missing, broken, or a pickle with objects.
    """
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}; accepted: .json, or .pkl with plain values")
    if path.suffix not in (".pkl", ".pickle"):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
    try:
        with path.open("rb") as file:
            return PlainUnpickler(file).load()
    except Exception as error:  # a broken pickle raises almost anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be read: {reason}; accepted: plain values only, better as JSON") from error


def load_catalog(path: str | Path) -> frozenset[tuple[str, int]]:
    """Read the films that may be recommended, as (folded title, year): JSON ``[[title, year], ...]`` or a pickled set.

    Raises:
        DataError: the file is missing, a pickle with objects, or has entries without a year.
    """
    return frozenset((fold(title), year) for title, year, *_ in pairs(read_table(Path(path)), str(path)))


def pairs(table: Any, name: str) -> list[tuple[str, int, Any]]:
    """Return (title, year, value) for each entry of a table: rows, or a mapping with keys like ``Title (1999)`` or ``title|1999``."""
    entries: Iterable[Any] = table
    if isinstance(table, Mapping):
        entries = [(*(key if isinstance(key, tuple) else split_key(str(key))), value) for key, value in table.items()]
    triples = []
    for entry in entries:
        row = list(entry.values()) if isinstance(entry, Mapping) else entry
        year = year_of(row[1]) if isinstance(row, (list, tuple)) and len(row) > 1 else None
        if year is None:
            raise DataError(f"{name}: {entry!r} is no title with a year")
        triples.append((str(row[0]), year, row[2] if len(row) > 2 else None))
    return triples


def split_key(key: str) -> tuple[str, str]:
    """Split ``Title (1999)`` or ``title|1999`` into title and year."""
    title, _, year = key.rstrip(") ").replace("(", "|").rpartition("|")
    return title, year
