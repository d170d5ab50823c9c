"""Rows of a source, each passed through a function that brings its columns into one form or refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...data.rows import BadRow
from ...data.sources import read_rows
from ...errors import DataError

SUFFIXES = ("", ".jsonl", ".json", ".parquet")


def checked_rows(source: str, usable: Callable[[Mapping[str, Any]], dict[str, Any]]) -> list[dict[str, Any] | BadRow]:
    """The rows as ``usable`` returns them; one that it refuses (DataError, ValueError, TypeError) is a bad row.

    What a function of ``data.source`` may return: ``data.bad_rows`` decides what becomes of the bad ones.
    """
    found = read_rows(source)
    rows: list[dict[str, Any] | BadRow] = []
    for index in range(len(found)):
        row = found[index]
        try:
            rows.append(row if isinstance(row, BadRow) else usable(row))
        except (TypeError, ValueError, DataError) as error:
            rows.append(BadRow(found.place(index), str(error)))
    return rows


def split_path(path: str, split: str) -> str | None:
    """Folder or file of a split in the folder ``path``; None where there is none."""
    candidates = (Path(path) / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((str(candidate) for candidate in candidates if candidate.exists()), None)
