"""Seconds per phase of a step, for the ``time/*`` metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..backend import CompileLog
from .shortages import shortage

PHASES = ("generate", "reward", "logps", "values", "update", "sync", "save", "eval", "compile")


class Clock:
    """A stopwatch with laps: one lap per step, wall seconds by phase. Compilation is counted apart from its phase.

    A step's lap ends when its metrics are written. The checkpoint is written after them, so its time is in the lap
    of the next step.
    """

    def __init__(self, compile_log: CompileLog) -> None:
        self.compile_log = compile_log
        self.start = time.perf_counter()
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block under ``time/<name>``, and what was compiled in it under ``time/compile``.

        A phase may be entered many times in a lap.

        Raises:
            OutOfMemory, DiskFull: naming the phase, whatever library noticed it.
        """
        start, compiled_before = time.perf_counter(), self.compile_log.seconds
        try:
            yield
        except Exception as error:
            told = shortage(error, name)
            if told is None or told is error:
                raise
            raise told from error
        finally:
            compiled = self.compile_log.seconds - compiled_before
            self.seconds[name] += time.perf_counter() - start - compiled
            self.seconds["compile"] += compiled

    def lap(self) -> dict[str, float]:
        """End the lap and begin the next: ``time/step`` and ``time/<phase>`` of the one that ended."""
        now = time.perf_counter()
        metrics = {"time/step": now - self.start, **{f"time/{name}": took for name, took in self.seconds.items()}}
        self.start, self.seconds = now, dict.fromkeys(PHASES, 0.0)
        return metrics
