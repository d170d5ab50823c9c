"""Progress of jobs that take long, as lines for a person."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 10.0  # between two lines


class Progress:
    """Counts finished jobs and shows a line at the first, then at most every ``seconds``, and at the last.

    Args:
        total: number of jobs.
        done: number of those that an earlier run finished.
        show: takes each line.
    """

    def __init__(self, total: int, done: int, show: Callable[[str], None], seconds: float = SECONDS) -> None:
        self.total, self.before, self.now = total, done, 0
        self.show, self.seconds = show, seconds
        self.began = time.monotonic()
        self.shown = -seconds

    def finished(self) -> None:
        """Count one more job."""
        self.now += 1
        passed, left = time.monotonic() - self.began, self.total - self.before - self.now
        if left and passed - self.shown < self.seconds:
            return
        self.shown = passed
        ahead = f", about {clock(passed / self.now * left)} left" if left else ""
        self.show(f"{self.before + self.now} of {self.total} samples in {clock(passed)}{ahead}")


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds: ``1:02:03``, ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
