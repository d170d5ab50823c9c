"""JSON lines: one object per line. A run's files survive a kill: broken lines are skipped, files are replaced atomically.

In a run's files numbers that are not finite are written and read as null, so that every JSON reader accepts them.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonLines:
    """The objects of a file, and the line numbers (from 1) that hold none."""

    rows: list[dict[str, Any]]
    bad: list[int]


def read_json_lines(path: Path) -> JsonLines:
    """Read all objects of a file; an absent file counts as empty."""
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    for number, line in numbered_lines(path.read_bytes() if path.exists() else b""):
        row = parse_object(line)
        if isinstance(row, str):
            bad.append(number)
        else:
            rows.append(row)
    return JsonLines(rows, bad)


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1; a byte order mark is dropped."""
    # Only \n ends a line: JSON strings may hold the other line ends of Unicode.
    lines = enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1)
    return ((number, line) for number, line in lines if line.strip())


def parse_object(line: bytes, *, keep_nan: bool = False) -> dict[str, Any] | str:
    """Parse the JSON object on a line, or return the reason why there is none; NaN and infinities become None unless kept."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=None if keep_nan else lambda _: None)
    except UnicodeDecodeError as error:
        return f"invalid UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        return f"invalid JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, brackets nested thousands deep
        return f"invalid JSON: {error}"
    return value if isinstance(value, dict) else f"not an object but {_kind(value)}"


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


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
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:  # half a file must not keep a full disk full
        partial.unlink(missing_ok=True)
        raise


def replace_json(path: Path, value: Any) -> None:
    """Atomically write one indented JSON value for people and programs, without escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(finite(value), ensure_ascii=False, indent=2) + "\n").encode())


def digest_of(value: Any) -> str:
    """Digest of a JSON value in 16 hexadecimal digits, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
