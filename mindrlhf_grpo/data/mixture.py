"""One or several named sources as one sequence of rows, and the order in which a run draws them.

Without weights an epoch draws every row of every source once. With weights each source gives its share of the draws
and has epochs of its own: a small source repeats while a large one goes on. Either way the order of an epoch depends
on (seed, epoch) alone, so that a state of a few numbers continues it exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .rows import BadRow, Rows, unknown
from .sources import OPTIONS, read_rows, source_folder, source_name

Source: TypeAlias = str | Mapping[str, Any]
Setting: TypeAlias = Source | Sequence[Source]
ENTRY = ("source", "name", "weight")
NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSource:
    """One source of a configuration.

    Attributes:
        name: in metrics and messages; that of the file, dataset or function where the configuration gives none.
        source: the source, as ``sources.read_rows`` takes it.
        weight: its share of the draws beside the other weights; None where no source has one.
    """

    name: str
    source: Source
    weight: float | None = None


def named_sources(setting: Setting) -> tuple[NamedSource, ...]:
    """Read ``data.source`` or ``eval.source``: one source, a mapping of names to sources, or a list.

    Items of a list are sources, or mappings ``{source: SOURCE, name: NAME, weight: NUMBER}``.

    Raises:
        DataError: a source has no text, two have one name, or only some have weights.
    """
    if isinstance(setting, str) or (isinstance(setting, Mapping) and _is_one_source(setting)):
        return (NamedSource(name=_short_name(setting), source=setting),)
    if isinstance(setting, Mapping):
        listed = [_checked(NamedSource(name=str(name), source=source)) for name, source in setting.items()]
    else:
        listed = [_entry(item) for item in setting]
    if not listed:
        raise DataError("the list of data sources is empty")
    names = [one.name for one in listed]
    if len(set(names)) < len(names):
        raise DataError(
            f"two data sources have one name ({', '.join(names)}); give each another: {{source: ..., name: ...}}"
        )
    weighted = [one.weight is not None for one in listed]
    if any(weighted) and not all(weighted):
        raise DataError(
            f"data source {names[weighted.index(False)]!r} has no weight, and others have; accepted: all or none"
        )
    return tuple(listed)


def _is_one_source(setting: Mapping[str, Any]) -> bool:
    """Whether a mapping is a source with arguments, even one that lacks its name; else its keys name sources."""
    named = all(isinstance(source, str | Mapping) for source in setting.values())
    return not (setting and named) or any(key in setting for key in (*ENTRY, *OPTIONS))


def _entry(item: Source) -> NamedSource:
    if not isinstance(item, Mapping) or "source" not in item:
        return _checked(NamedSource(name=_short_name(item), source=item))
    for key in item:
        if key not in ENTRY:
            raise unknown(f"data source {item['source']!r}: key", str(key), ENTRY)
    weight = item.get("weight")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9):
        raise DataError(f"data source {item['source']!r}: weight is {weight!r}; accepted: a number above 0")
    name = item.get("name") or _short_name(item["source"])
    return _checked(
        NamedSource(name=str(name), source=item["source"], weight=None if weight is None else float(weight))
    )


def _checked(one: NamedSource) -> NamedSource:
    source_name(one.source)  # has a text
    if not NAME.fullmatch(one.name):
        raise DataError(f"data source name {one.name!r} is not accepted; it takes letters, digits and . _ + -")
    return one


def _short_name(source: Source) -> str:
    """Return the name of a source that has none: of its file without suffix, its dataset, or its function."""
    text = source_name(source).rstrip("/")
    last = re.split(r"[/:]", text)[-1]
    return re.sub(r"\.(jsonl?|parquet|arrow|csv|tsv)$", "", last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of one source in a mixture.

    Attributes:
        written: the rows as the source has them, which a fingerprint covers.
        rows: the rows as they are drawn: in one form, or a row as several.
    """

    named: NamedSource
    written: Rows
    rows: Rows


class Mixture:
    """The rows of all sources, one source after the other. It is itself ``Rows``."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.starts = [0, *accumulate(len(part.rows) for part in parts)]
        shares = np.asarray([part.named.weight or 0.0 for part in parts])
        self._bounds = np.cumsum(shares) / shares.sum() if shares.any() else None
        self._drawn = [np.zeros(len(parts), np.int64)]  # draws of each source before epoch 0, 1, ...

    @property
    def several(self) -> bool:
        return len(self.parts) > 1

    @property
    def on_demand(self) -> bool:
        """Whether a program makes rows when they are read."""
        return any(getattr(part.written, "on_demand", False) for part in self.parts)

    @property
    def bad(self) -> Mapping[int, BadRow]:
        return {
            start + i: row
            for start, part in zip(self.starts, self.parts, strict=False)
            for i, row in part.rows.bad.items()
        }

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        part, at = self._locate(index)
        return part.rows[at]

    def place(self, index: int) -> str:
        part, at = self._locate(index)
        return part.rows.place(at)

    def source_of(self, index: int) -> str:
        """Return the name of a row's source; empty where there is only one."""
        return self._locate(index)[0].named.name if self.several else ""

    def folder_of(self, index: int) -> Path:
        """Return the folder that relative paths of a row start from."""
        return source_folder(self._locate(index)[0].named.source)

    def uid(self, index: int, epoch: int, position: int) -> int:
        """Return the number of a draw, unique in a run: with weights a row may be drawn twice in an epoch."""
        return (index if self._bounds is None else position) + epoch * len(self)

    def order(self, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
        """Return the rows of an epoch in the order of their draws ``[len]``."""
        rows = len(self)
        if self._bounds is None:
            return epoch_order(rows, seed, epoch) if shuffle else np.arange(rows)
        picks = self._picks(seed, epoch, shuffle=shuffle)
        order = np.empty(rows, np.int64)
        for number, part in enumerate(self.parts):
            places = np.flatnonzero(picks == number)
            first = self._drawn_before(seed, epoch, shuffle=shuffle)[number]
            order[places] = self.starts[number] + _nth_draws(
                len(part.rows), first, len(places), (seed, number), shuffle
            )
        return order

    def _picks(self, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
        """Return the source of each draw of an epoch ``[len]``.

        The draws are spread evenly over the shares (systematic sampling from a random start), so an epoch has each
        share to one draw, and in the long run exactly; then their order is shuffled.
        """
        assert self._bounds is not None
        rows = len(self)
        if shuffle:
            start = np.random.Philox(np.random.SeedSequence((seed, epoch, 1))).random_raw() / 2**64
            points = (epoch_order(rows, seed, epoch) + start) / rows
        else:
            points = (np.arange(rows) + epoch * rows + 0.5) * _GOLDEN % 1.0
        return np.minimum(np.searchsorted(self._bounds, points, side="right"), len(self.parts) - 1)

    def _drawn_before(self, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
        while len(self._drawn) <= epoch:
            picks = self._picks(seed, len(self._drawn) - 1, shuffle=shuffle)
            self._drawn.append(self._drawn[-1] + np.bincount(picks, minlength=len(self.parts)))
        return self._drawn[epoch]

    def _locate(self, index: int) -> tuple[Part, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} rows, not {index}")
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[number], index - self.starts[number]


_GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly however many are taken


def open_mixture(setting: Setting, read: Callable[[Source], tuple[Rows, Rows]]) -> Mixture:
    """Open every source; ``read`` returns its rows as written and as they are drawn.

    Raises:
        DataError: a source cannot be read, or is empty.
    """
    parts = []
    for named in named_sources(setting):
        written, rows = read(named.source)
        if not len(rows):
            raise DataError(f"data source {source_name(named.source)} has no rows")
        parts.append(Part(named=named, written=written, rows=rows))
    return Mixture(parts)


def read_sources(setting: Setting) -> Mixture:
    """Open every source, rows as written; raises DataError as ``open_mixture``."""

    def read(source: Source) -> tuple[Rows, Rows]:
        rows = read_rows(source)
        return rows, rows

    return open_mixture(setting, read)


def setting_name(setting: Setting) -> str:
    """Return the setting as one text for messages: the source, or the names of all."""
    named = named_sources(setting)
    return source_name(named[0].source) if len(named) == 1 else ", ".join(one.name for one in named)


def epoch_order(rows: int, *seed: int) -> NDArray[np.int64]:
    """Return a permutation of ``0..rows-1`` from the numbers of ``seed``: (seed, epoch) for one source.

    It sorts the raw output of Philox: NumPy guarantees equal bit streams between versions, but not equal shuffles.
    """
    raw = np.random.Philox(np.random.SeedSequence(seed)).random_raw(rows)
    return np.argsort(raw, kind="stable")


def _nth_draws(rows: int, first: int, count: int, seed: tuple[int, int], shuffle: bool) -> NDArray[np.int64]:
    """Return the rows of a source that its draws ``first .. first + count - 1`` take, epoch after epoch of its own."""
    taken: list[NDArray[np.int64]] = []
    while count:
        epoch, at = divmod(int(first), rows)
        order = epoch_order(rows, seed[0], epoch, seed[1] + 2) if shuffle else np.arange(rows)
        taken.append(order[at : at + count])
        first, count = first + len(taken[-1]), count - len(taken[-1])
    return np.concatenate(taken) if taken else np.empty(0, np.int64)
