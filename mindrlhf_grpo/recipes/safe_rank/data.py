"""Rows of conversations with the films that a user will like and the traits that they want to avoid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...data.rows import BadRow, ChangedRows
from ...data.sources import read_rows
from ...errors import DataError
from .oracle import active
from .titles import year_of

SUFFIXES = ("", ".jsonl", ".json", ".parquet")


def rows(path: str, split: str = "train") -> list[dict[str, Any] | BadRow]:
    """Return the rows of a split: of a saved dataset, a folder of files, or one file.

    For ``data.source: {name: mindrlhf_grpo.recipes.safe_rank.data:rows, path: ...}``.
    """
    return checked_rows(split_path(path, split) or path, usable)


def usable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row in one form: years as numbers, constraints as ``{trait: true}``, missing lists as empty ones.

    Raises:
        DataError: the ground truth is missing or not a list of [title, year], or seen titles are not a list.
        ValueError: constraints are not a mapping of trait to true or false.
    """
    truth, seen = row.get("groundtruth_with_release_year"), row.get("seen_titles")
    if not isinstance(truth, (list, tuple)):
        raise DataError(f"groundtruth_with_release_year is {truth!r}, not a list of [title, year]")
    for pair in truth:
        if not isinstance(pair, (list, tuple)) or len(pair) < 2 or year_of(pair[1]) is None:
            raise DataError(f"groundtruth_with_release_year has {pair!r}, which is no [title, year]")
    if not (seen is None or isinstance(seen, (list, tuple))):
        raise DataError(f"seen_titles is {seen!r}, not a list of titles")
    return {name: value for name, value in row.items() if name != "completion"} | {
        "groundtruth_with_release_year": [[str(title), year_of(year)] for title, year, *_ in truth],
        "seen_titles": [str(title) for title in seen or ()],
        "constraints": dict.fromkeys(active(row.get("constraints")), True),
    }


def checked_rows(source: str, usable: Callable[[Mapping[str, Any]], dict[str, Any]]) -> list[dict[str, Any] | BadRow]:
    """Return each row of a source as ``usable`` does; one that it refuses (DataError, ValueError, TypeError) is a bad row.

    ``data.bad_rows`` of the configuration decides what happens to bad rows.
    """
    return list(ChangedRows(read_rows(source), usable, (TypeError, ValueError, DataError)))


def split_path(path: str, split: str) -> str | None:
    """Return the folder or file of a split in the folder ``path``; None without one."""
    candidates = (Path(path) / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((str(candidate) for candidate in candidates if candidate.exists()), None)
