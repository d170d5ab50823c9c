"""Rows of a source: a sequence of dicts, each with a place for messages; an unreadable one is kept as a BadRow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import DataError, did_you_mean

DEEPEST = 100  # levels of nesting in a row; deeper ones overflow the stack of whatever walks them


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, with its place and the reason."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class PlacedRow(dict[str, Any]):
    """A row that a function made of another: messages name the place of the other (``file.jsonl:12``)."""

    def __init__(self, place: str, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.place = place


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
    places: Mapping[int, str] = field(default_factory=dict)  # of rows that come from elsewhere
    on_demand: bool = False  # rows are made by a program when read, at its price
    stored: Callable[[], Iterator[Mapping[str, Any]]] | None = None  # all rows in order as they lie on disk, undecoded

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
        return self.places.get(index) or f"{self.name}[{index}]"


class ChangedRows:
    """Rows as ``change`` returns them, with their places; one that it refuses, by such an exception, is a bad row."""

    def __init__(
        self,
        rows: Rows,
        change: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        refusals: tuple[type[Exception], ...] = (DataError,),
    ) -> None:
        self._rows, self._change, self._refusals = rows, change, refusals

    @property
    def bad(self) -> Mapping[int, BadRow]:
        return self._rows.bad

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[PlacedRow | BadRow]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> PlacedRow | BadRow:
        row = self._rows[index]
        if isinstance(row, BadRow):
            return row
        try:
            return PlacedRow(self.place(index), self._change(row))
        except self._refusals as error:
            return BadRow(self.place(index), str(error))

    def place(self, index: int) -> str:
        return self._rows.place(index)


def check_depth(row: Mapping[str, Any]) -> None:
    """Raise DataError for a row whose values are nested too deep for the code that walks them."""
    level: list[Any] = list(row.values())
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, (Mapping, list, tuple))
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            return
    raise DataError(f"a column is nested more than {DEEPEST} levels deep")


def unknown(what: str, value: str, accepted: Iterable[str]) -> DataError:
    """Return the error for an unknown name; it suggests the nearest and lists those accepted."""
    names = sorted(accepted)
    shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return DataError(f"{what} {value!r} is unknown{did_you_mean(value, names)}; accepted: {shown or 'none'}")
