"""Files of one row after another (JSON lines, CSV), read by the row: memory holds an index of places, not the file.

An index is three numbers a row, made in one pass over the file. So files larger than memory are shuffled exactly.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..json_lines import parse_object
from .rows import BadRow, IndexedRows, Rows

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LONGEST_CELL = 1 << 30  # characters; Python's csv has 131,072, shorter than many texts


class LineFile:
    """The bytes of each row of a file, read when asked for. Ranks and forked processes read without disturbing others."""

    def __init__(self, path: Path, index: Iterator[tuple[int, int, int, int]]) -> None:
        """``index`` gives for each row: its first byte, its length, its line number and its sum."""
        self.path = path
        self._index = np.fromiter(index, np.dtype((np.int64, 4)))
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._index)

    def bytes_of(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} rows, not {index}")
        start, length = (int(number) for number in self._index[index, :2])
        return os.pread(self._file, length, start)

    def place(self, index: int) -> str:
        return f"{self.path}:{self._index[index, 2]}"

    def sums(self) -> NDArray[np.uint32]:
        return self._index[:, 3].astype(np.uint32)


class JsonLinesRows:
    """Rows of a JSON-lines file: its non-blank lines, parsed when drawn. A line that holds no object is a BadRow."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be read."""
        self._file = _indexed(path, _json_lines)

    @cached_property
    def bad(self) -> Mapping[int, BadRow]:
        """Index -> the lines that hold no object; the first use parses every line."""
        rows = ((index, self[index]) for index in range(len(self)))
        return {index: row for index, row in rows if isinstance(row, BadRow)}

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        row = parse_object(self._file.bytes_of(index), keep_nan=True)
        return BadRow(self.place(index), row) if isinstance(row, str) else row

    def place(self, index: int) -> str:
        return self._file.place(index)

    def sums(self) -> NDArray[np.uint32]:
        return self._file.sums()


class CsvRows:
    """Rows of a CSV or TSV file with a header. Every value is text; a quoted value may hold line breaks."""

    bad: Mapping[int, BadRow] = {}  # they are found when read

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be read, or its header names a column twice or not at all."""
        self._path, self._delimiter = path, DELIMITERS[path.suffix]
        self.columns: list[str] = []
        self._file = _indexed(path, self._records)
        if not self.columns:
            raise DataError(f"{path} is empty: its first line names the columns")
        if len(set(self.columns)) < len(self.columns) or "" in self.columns:
            raise DataError(
                f"{path}:1: the header must name each column once; it has {', '.join(map(repr, self.columns))}"
            )

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        try:
            cells = next(self._reader(io.StringIO(self._file.bytes_of(index).decode("utf-8"), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            return BadRow(self.place(index), f"no CSV in UTF-8: {error}")
        if len(cells) != len(self.columns):
            return BadRow(self.place(index), f"{len(cells)} values for {len(self.columns)} columns")
        return dict(zip(self.columns, cells, strict=True))

    def place(self, index: int) -> str:
        return self._file.place(index)

    def sums(self) -> NDArray[np.uint32]:
        return self._file.sums()

    def _reader(self, lines: Any) -> Iterator[list[str]]:
        csv.field_size_limit(LONGEST_CELL)
        return csv.reader(lines, delimiter=self._delimiter)

    def _records(self, file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
        """Yield the places of the rows, and note the header. The reader takes as many lines as a record has."""
        lines = _Counted(file)
        reader = self._reader(lines)
        while True:
            lines.begin()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{self._path}:{lines.first}: no CSV: {error}") from None
            if cells is None:
                return
            if cells and not self.columns:
                self.columns = [cell.strip() for cell in cells]
            elif cells:
                yield lines.start, lines.end - lines.start, lines.first, lines.sum


class _Counted:
    """Lines of a file as text, with the bytes, the line number and the sum of those read since ``begin``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.end, self._number = file, 0, 0
        self.begin()

    def begin(self) -> None:
        self.start, self.first, self.sum = self.end, self._number + 1, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.end, self._number = self.end + len(line), self._number + 1
        self.sum = zlib.crc32(line.rstrip(), self.sum)
        marked = self._number == 1 and line.startswith(codecs.BOM_UTF8)
        # Latin 1 keeps every byte: a delimiter, a quote or a line end is no part of a UTF-8 character of several.
        return line[len(codecs.BOM_UTF8) if marked else 0 :].decode(
            "utf-8" if self._number == 1 else "latin-1", "replace"
        )


def read_json(path: Path) -> Rows:
    """Open a ``.json`` file: objects line by line, or one list of objects.

    Raises:
        DataError: the file cannot be read, or its list is not JSON.
    """
    with _opened(path) as file:
        head = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    if not head.startswith(b"["):
        return JsonLinesRows(path)
    try:
        items = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} begins like a list of rows, but is no JSON: {error}") from None
    bad = {
        index: BadRow(f"{path}[{index}]", f"not an object but {type(item).__name__}")
        for index, item in enumerate(items)
        if not isinstance(item, dict)
    }
    return IndexedRows(name=str(path), size=len(items), read=lambda index: dict(items[index]), bad=bad)


def _json_lines(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    start = 0
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if stripped := content.strip():
            skipped = len(line) - len(content)
            yield start + skipped, len(content.rstrip(b"\n")), number, zlib.crc32(stripped)
        start += len(line)


def _indexed(path: Path, records: Any) -> LineFile:
    with _opened(path) as file:
        return LineFile(path, records(file))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
