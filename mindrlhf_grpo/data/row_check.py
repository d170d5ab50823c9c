"""Rows that stop a run, counted before it begins: one message says how many there are and names the first of each kind."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import DataError

PATIENCE = 5.0  # seconds without a line on the terminal, while rows are checked


class StoppedByRow(DataError):
    """A row that ends the run although others could be used.

    Attributes:
        kind: ``bad`` or ``over-long``.
        remedy: the key that goes on without such rows.
    """

    def __init__(self, kind: str, place: str, reason: str, remedy: str) -> None:
        super().__init__(f"{place}: {reason}; {remedy}")
        self.kind, self.place, self.reason, self.remedy = kind, place, reason, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The outcome of a check that found no row to stop at.

    Attributes:
        rows, checked: rows of the source, and how many of them were encoded.
        counts: rows that the run leaves out or cuts, by the names of ``RowStream.counts``.
        longest: tokens of the longest usable row.
        largest_id: the largest token id of a usable row.
        columns: those that usable rows of every source have, besides the prompt.
    """

    name: str
    rows: int
    checked: int
    counts: Mapping[str, int]
    longest: int
    largest_id: int = 0
    columns: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Rows that are never drawn."""
        return self.counts.get("dropped", 0) + self.counts.get("skipped", 0)

    def __str__(self) -> str:
        text = f"{self.name}: {self.rows:,} rows, the longest has {self.longest:,} tokens"
        if self.checked < self.rows:
            text = f"{self.name}: {self.checked:,} of {self.rows:,} rows checked, those that are drawn first; the others are checked when drawn. The longest has {self.longest:,} tokens"
        left_out = [f"{count:,} {name}" for name, count in self.counts.items() if count]
        return f"{text}; {', '.join(left_out)}" if left_out else text


@dataclass(slots=True)
class Tally:
    """What a check has seen so far; it says on the terminal how far it is, where that takes long."""

    rows: int
    checked: int = 0
    usable: int = 0
    longest: int = 0
    largest_id: int = 0
    stopped: dict[str, StoppedByRow] = field(default_factory=dict)  # the first of each kind
    counts: Counter[str] = field(default_factory=Counter)
    columns: dict[str, dict[str, None]] = field(default_factory=dict)  # by the name of the source
    _said: float = field(default_factory=time.monotonic)

    def see(self, tokens: int, largest_id: int, source: str, columns: Iterable[str]) -> None:
        self.usable, self.longest = self.usable + 1, max(self.longest, tokens)
        self.largest_id = max(self.largest_id, largest_id)
        self.columns.setdefault(source, {}).update(dict.fromkeys(columns))

    def stop(self, error: StoppedByRow) -> None:
        self.stopped.setdefault(error.kind, error)
        self.counts[error.kind] += 1

    def done(self) -> None:
        self.checked += 1
        if time.monotonic() - self._said > PATIENCE:
            self._said = time.monotonic()
            if os.environ.get("RANK", os.environ.get("RANK_ID", "0")) == "0":
                print(f"checking rows: {self.checked:,} of {self.rows:,}", file=sys.stderr, flush=True)

    def raise_if_stopped(self, name: str) -> None:
        """Raise DataError if rows stop the run."""
        if not self.stopped:
            return
        parts = [f"{self.counts[kind]:,} {kind}, first {error}" for kind, error in self.stopped.items()]
        total = self.counts.total()
        stops = "stops" if total == 1 else "stop"
        raise DataError(f"{total:,} of {self.checked:,} rows of {name} {stops} the run: {'. '.join(parts)}")

    def survey(self, name: str, counts: dict[str, int]) -> Survey:
        first, *others = self.columns.values()
        common = tuple(column for column in first if all(column in other for other in others))
        return Survey(
            name=name, rows=self.rows, checked=self.checked, longest=self.longest, largest_id=self.largest_id,
            counts=counts, columns=common,
        )  # fmt: skip
