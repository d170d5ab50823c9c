"""JSON-lines files that survive a kill: a reader that skips what is broken, a writer that replaces whole files.

Lines end at ``\\n`` only; other line separators may stand inside a string. Numbers that are not finite
are written and read as null, so that every JSON reader accepts the files.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonLines:
    """The objects of a file, and the line numbers (from 1) that hold none."""

    rows: list[dict[str, Any]]
    bad: list[int]


def read_json_lines(path: Path) -> JsonLines:
    """All objects of a file; an absent file is an empty one."""
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = parse_object(line)
        if row is None:
            bad.append(number)
        else:
            rows.append(row)
    return JsonLines(rows, bad)


def parse_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, None if there is no such thing."""
    try:
        row = json.loads(line.decode(), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def to_json(value: Any) -> str:
    """One line of ASCII JSON; NaN and infinities become null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(finite(value), allow_nan=False, separators=(",", ":"))


def finite(value: Any) -> Any:
    """The same JSON value with null in place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    return value


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it into place."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
