"""Seconds per phase of one step, for the ``time/*`` metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..backend import CompileLog

PHASES = ("generate", "reward", "logps", "values", "update", "sync", "save", "eval", "compile")


class Clock:
    """Adds up wall seconds by phase; phases may be entered many times. Compilation is counted apart from its phase.

    Args:
        enter: called with the name of each phase when it begins, within its time: memory moves there.
    """

    def __init__(self, compile_log: CompileLog, enter: Callable[[str], None] | None = None) -> None:
        self.compile_log, self.enter = compile_log, enter
        self.started = time.perf_counter()
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block under ``time/<name>``, what was compiled in it under ``time/compile``."""
        start, compiled = time.perf_counter(), self.compile_log.seconds
        try:
            if self.enter is not None:
                self.enter(name)
            yield
        finally:
            compiled = self.compile_log.seconds - compiled
            self.seconds[name] += time.perf_counter() - start - compiled
            self.seconds["compile"] += compiled

    def metrics(self) -> dict[str, float]:
        """``time/step`` and ``time/<phase>`` since the clock was made."""
        return {"time/step": time.perf_counter() - self.started, **{f"time/{n}": s for n, s in self.seconds.items()}}
