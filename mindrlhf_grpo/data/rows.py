"""Rows of a source: a sequence of dicts, each with a place for messages; an unreadable one is kept as a BadRow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import DataError, did_you_mean
from ..json_lines import numbered_lines, parse_object


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, with its place and the reason."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Rows(Protocol):
    """Random access to the rows of one source, the same in every process and at every access."""

    @property
    def bad(self) -> Mapping[int, BadRow]:
        """Index -> the bad rows already known when the source was opened."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow: ...

    def place(self, index: int) -> str:
        """Return the place where a person finds the row: ``file.jsonl:12`` (line), ``NAME[12]`` (row, from 0)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRows:
    """Rows behind a function that reads the i-th one; a row whose reading fails is a BadRow."""

    name: str
    size: int
    read: Callable[[int], dict[str, Any]]
    bad: Mapping[int, BadRow] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} rows, not {index}")
        if index in self.bad:
            return self.bad[index]
        try:
            return self.read(index)
        except Exception as error:  # decoders and generators of other libraries
            return BadRow(self.place(index), f"cannot be read: {type(error).__name__}: {error}")

    def place(self, index: int) -> str:
        return f"{self.name}[{index}]"


class JsonLinesRows:
    """Rows of a JSON-lines file: its non-blank lines.

    The bytes are kept and rows are parsed when drawn; every line is tried once at the start, and a line that holds no
    object becomes a BadRow with its line number.
    """

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


def unknown(what: str, value: str, accepted: Iterable[str]) -> DataError:
    """Return the error for an unknown name; it suggests the nearest and lists those accepted."""
    names = sorted(accepted)
    shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return DataError(f"{what} {value!r} is unknown{did_you_mean(value, names)}; accepted: {shown or 'none'}")
