"""Rows of conversations with what the user will like and must not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...data.rows import BadRow
from ...errors import DataError
from .checked_rows import checked_rows, split_path
from .oracle import active
from .titles import year_of


def rows(path: str, split: str = "train") -> list[dict[str, Any] | BadRow]:
    """The rows of a split: of a saved dataset, a folder of files, or one file.

    For ``data.source: {name: mindrlhf_grpo.recipes.safe_rank.data:rows, path: ...}``.
    """
    return checked_rows(split_path(path, split) or path, usable)


def usable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with columns of one form: years as numbers, constraints as ``{trait: true}``, absent lists empty.

    Raises:
        DataError: no ground truth, or one that is no list of title and year; the same of seen titles.
        ValueError: constraints that are no mapping of trait to true or false.
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
