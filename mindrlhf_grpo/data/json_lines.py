"""JSONL files: one JSON object per line; every line that is none becomes a BadRow with its line number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from ..json_lines import numbered_lines, parse_object
from .rows import BadRow


class JsonLines:
    """The non-blank lines of a file. Bytes are kept, rows are parsed when drawn; all are tried once at the start."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        self._lines = list(numbered_lines(content))
        self._path = path
        rows = (self[index] for index in range(len(self)))
        self.bad = {index: row for index, row in enumerate(rows) if isinstance(row, BadRow)}

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        row = parse_object(self._lines[index][1], keep_nan=True)
        return BadRow(self.place(index), row) if isinstance(row, str) else row

    def place(self, index: int) -> str:
        return f"{self._path}:{self._lines[index][0]}"
