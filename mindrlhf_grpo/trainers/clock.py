"""Seconds per phase of one step, for the ``time/*`` metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("generate", "reward", "logps", "update", "sync", "save", "eval")


class Clock:
    """Adds up wall seconds by phase; phases may be entered many times."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block under ``time/<name>``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """``time/step`` and ``time/<phase>`` since the clock was made."""
        return {"time/step": time.perf_counter() - self.started, **{f"time/{n}": s for n, s in self.seconds.items()}}
