"""JSONL files: one JSON object per line; every line that is none becomes a BadRow with its line number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import DataError
from .rows import BadRow

BOM = b"\xef\xbb\xbf"


class JsonLines:
    """The non-blank lines of a file. Bytes are kept, rows are parsed when drawn; all are tried once at the start."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        # Only \n ends a line: JSON strings may hold the other line ends of Unicode.
        lines = enumerate(content.removeprefix(BOM).split(b"\n"), start=1)
        self._lines = [(number, line) for number, line in lines if line.strip()]
        self._path = path
        rows = (self[index] for index in range(len(self)))
        self.bad = {index: row for index, row in enumerate(rows) if isinstance(row, BadRow)}

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        row = parse_object(self._lines[index][1])
        return BadRow(self.place(index), row) if isinstance(row, str) else row

    def place(self, index: int) -> str:
        return f"{self._path}:{self._lines[index][0]}"


def parse_object(line: bytes) -> dict[str, Any] | str:
    """The JSON object of a line, or the reason why it is none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"invalid UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        return f"invalid JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        return f"invalid JSON: {error}"
    return value if isinstance(value, dict) else f"not an object but {_kind(value)}"


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
