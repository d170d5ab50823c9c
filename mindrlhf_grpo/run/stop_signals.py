"""SIGTERM and SIGINT while steps are made: the first one asks for an end, the second one is the end.

Clusters send SIGTERM before they take a machine away, people press Ctrl-C. The loop finishes its step, writes a
checkpoint and ends; nothing is interrupted in the middle, so a resumed run is exact.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Ctrl-C reaches a worker from the terminal and once more from its launcher (torchrun); both are one wish.
SAME = 2.0  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of steps: like Ctrl-C, it ends what is under way."""


class StopSignals:
    """Handlers of both signals, from ``install`` to ``restore``.

    Attributes:
        received: number of the first signal; 0 while there is none.
        tell: whether this process writes a line about it (one of several ranks does).
    """

    def __init__(self, *, tell: bool) -> None:
        self.received, self.tell = 0, tell
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take the signals over; without effect outside the main thread, where Python delivers none."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.received:
            self.received, self._since = number, time.monotonic()
            self._write(
                f"{name}: the step under way is finished and saved, then the run ends; a second signal ends it at once"
            )
        elif time.monotonic() - self._since > SAME:
            self._write(f"a second signal, {name}: ended at once")
            os._exit(128 + number)

    def _write(self, text: str) -> None:
        if self.tell:
            with suppress(OSError):
                os.write(2, f"{text}\n".encode())  # print() is not safe in a handler: it may interrupt itself


def name_of(number: int) -> str:
    """The name of a signal."""
    return signal.Signals(number).name
