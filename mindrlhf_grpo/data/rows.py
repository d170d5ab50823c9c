"""Rows of a source: a sequence of dicts, each with a place for messages; what cannot be read is kept as a BadRow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Rows(Protocol):
    """Random access to the rows of one source, the same in every process and at every access."""

    @property
    def bad(self) -> Mapping[int, BadRow]:
        """Index -> those already known when the source was opened."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow: ...

    def place(self, index: int) -> str:
        """Where a person finds the row: ``file.jsonl:12`` (line), ``NAME[12]`` (row, from 0)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRows:
    """Rows of anything that gives its i-th row; a row whose reading fails is a BadRow."""

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


def unknown(what: str, value: str, accepted: Iterable[str]) -> DataError:
    """The error for a name that is none of those accepted: names the nearest and lists them."""
    names = sorted(accepted)
    shown = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return DataError(f"{what} {value!r} is unknown{did_you_mean(value, names)}; accepted: {shown or 'none'}")
