"""What a backend compiled, for which shapes, and how long that took.

Backends that compile do so when a shape is first seen, in the middle of a phase. The log keeps these seconds
apart, so that the time of a phase is what it costs from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One function compiled for one bucket of shapes; ``seconds`` includes its first run."""

    name: str
    bucket: str
    seconds: float


class CompileLog:
    """Compilations of this process, in order.

    Attributes:
        announce: called with one line before every compilation and one after, if set.
    """

    def __init__(self) -> None:
        self.entries: list[Compilation] = []
        self.seconds = 0.0
        self.announce: Callable[[str], None] | None = None

    @contextmanager
    def compiling(self, name: str, bucket: str) -> Iterator[None]:
        """Time the block as the first call of ``name`` for shapes it has not seen."""
        self._say(f"compiling {name} for {bucket} ...")
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.entries.append(Compilation(name=name, bucket=bucket, seconds=seconds))
        self.seconds += seconds
        self._say(f"compiled {name} for {bucket} in {seconds:.1f} s")

    def _say(self, text: str) -> None:
        if self.announce is not None:
            self.announce(text)
