"""Fingerprints of rows: a sum of every row, so that a changed row is found and named when a run is resumed."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mixture import Mixture
from .rows import BadRow, Rows

SAMPLED = 16  # rows that stand for all where rows are made on demand, and in checkpoints of version 0.2
SUMS = 1 << 18  # sums that a checkpoint keeps; of longer sources each is of several rows
NAMED = 3  # changed rows that a message names


class RowSums:
    """A 32-bit sum of every row of a mixture.

    Attributes:
        digest: of all sums, in 32 hexadecimal digits.
    """

    def __init__(self, rows: Mixture) -> None:
        self._places: list[tuple[Rows, int]] = []
        sums = []
        for part in rows.parts:
            sums.append(row_sums(part.written))
            self._places.append((part.written, len(sums[-1])))
        self.sums = np.concatenate(sums)
        self.digest = hashlib.sha256(self.sums.astype("<u4").tobytes()).hexdigest()[:32]

    @cached_property
    def packed(self) -> str:
        """The sums as text for a checkpoint; of more than ``SUMS`` rows a sum of each block of rows."""
        size = -(-len(self.sums) // SUMS)
        blocks = (
            self.sums if size == 1 else np.add.reduceat(self.sums, np.arange(0, len(self.sums), size), dtype=np.uint32)
        )
        return f"{len(self.sums)}:{base64.b64encode(zlib.compress(blocks.astype('<u4').tobytes())).decode()}"

    def difference(self, packed: str) -> str:
        """Describe how these rows differ from those of :attr:`packed`; empty if they do not, or nobody can tell."""
        length, _, text = packed.partition(":")
        before = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4")
        _, _, own = self.packed.partition(":")
        now = np.frombuffer(zlib.decompress(base64.b64decode(own)), "<u4")
        if int(length) != len(self.sums):
            return self._resized(before, now, int(length))
        changed = np.flatnonzero(before != now)
        if not len(changed):
            return ""
        size = -(-len(self.sums) // SUMS)
        shown = ", ".join(self._place(int(block) * size, size) for block in changed[:NAMED])
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        unit = ("row has", "rows have") if size == 1 else (f"block of {size} rows has", f"blocks of {size} rows have")
        return f"{len(changed)} {unit[len(changed) > 1]} changed: {shown}{more}"

    def _resized(self, before: NDArray[np.uint32], now: NDArray[np.uint32], length: int) -> str:
        """Describe rows that were added or removed: where the files agree from both ends."""
        more, fewer = len(self.sums) - length, length - len(self.sums)
        text = f"{more} rows were added" if more > 0 else f"{fewer} rows were removed"
        text = text.replace("1 rows were", "1 row was") if abs(more) == 1 else text
        if max(length, len(self.sums)) > SUMS:
            return text
        shorter = min(len(before), len(now))
        same = int(np.argmin(np.append(before[:shorter] == now[:shorter], False)))
        if same == len(before):
            return f"{text} at the end"
        where = self._place(same, 1) if same < len(now) else "the end"
        tail = shorter - same
        rest_is_equal = bool((before[len(before) - tail :] == now[len(now) - tail :]).all())
        return f"{text} at {where}" + ("" if rest_is_equal else ", and others have changed")

    def _place(self, index: int, size: int) -> str:
        for rows, count in self._places:
            if index < count:
                first = rows.place(index)
                return first if size == 1 else f"{first} to {rows.place(min(index + size, count) - 1)}"
            index -= count
        return "the end"


def row_sums(rows: Rows) -> NDArray[np.uint32]:
    """Return the sum of every row; of rows that are made on demand, of the sampled ones only (the others are 0)."""
    own = getattr(rows, "sums", None)
    if own is not None:
        sums: NDArray[np.uint32] = own()
        return sums
    stored = getattr(rows, "stored", None)
    if stored is not None:
        return np.fromiter(map(row_sum, stored()), np.uint32, len(rows))
    sums = np.zeros(len(rows), np.uint32)
    for index in sampled(len(rows)) if getattr(rows, "on_demand", False) else range(len(rows)):
        sums[index] = row_sum(rows[index])
    return sums


def row_sum(row: Mapping[str, Any] | BadRow) -> int:
    """Return the sum of one row: a CRC-32 of its canonical JSON."""
    try:
        text = row.reason if isinstance(row, BadRow) else json.dumps(_canonical(row), sort_keys=True)
    except RecursionError:  # a row that ``check_depth`` refuses
        return 0
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def fingerprint(rows: Rows) -> str:
    """Return the fingerprint of checkpoints of version 0.2: of the number of rows and of up to 16 of them."""
    digest = hashlib.sha256(str(len(rows)).encode())
    for index in sampled(len(rows)):
        row = rows[index]
        content = str(row.reason) if isinstance(row, BadRow) else json.dumps(_canonical(row), sort_keys=True)
        digest.update(content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def sampled(rows: int) -> Sequence[int]:
    """Return up to 16 rows, evenly spread, the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, rows - 1, SAMPLED)})


def _canonical(value: Any) -> Any:
    """Return a value as JSON that is equal in every process: no addresses, no order of sets, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return _canonical(value.tolist())
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (bytes, date)):
        return str(value)
    return type(value).__name__
