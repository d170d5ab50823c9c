"""Progress on standard error: a bar on a terminal, one aligned line per step anywhere else.

Standard output is left to results. Control characters never reach the terminal, because messages may quote text that
a model wrote.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Display(Protocol):
    """Shows steps and one-line messages."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def open_display(steps: int, done: int) -> Display:
    """Open the bar where standard error is a terminal, else plain lines."""
    from rich.console import Console

    console = Console(stderr=True)
    interactive = sys.stderr.isatty() and not console.is_dumb_terminal
    return Bar(console, steps, done) if interactive else Lines(steps, done)


class Pace:
    """Predicts the time left from the wall time of the last steps."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps = steps
        self._marks: deque[tuple[int, float]] = deque([(done, time.monotonic())], maxlen=21)

    def seconds_left(self, step: int) -> float | None:
        """Seconds to the last step; None before the first step."""
        now = time.monotonic()
        first_step, first_time = self._marks[0]
        self._marks.append((step, now))
        if step <= first_step:
            return None
        return (now - first_time) / (step - first_step) * max(0, self.steps - step)


class Lines:
    """Prints one short line per step."""

    def __init__(self, steps: int, done: int) -> None:
        self._pace = Pace(steps, done)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the step's line."""
        steps = self._pace.steps
        left = self._pace.seconds_left(step)
        print(f"step {step:>{len(str(steps))}}/{steps}  {status(metrics, left)}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Write a message."""
        print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to do."""


class Bar:
    """A progress bar with the metrics of the last step beside it."""

    def __init__(self, console: object, steps: int, done: int) -> None:
        self._pace = Pace(steps, done)
        self._bar = rich_bar(console)
        self._task = self._bar.add_task("train", total=steps, completed=done, status="")
        self._bar.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar to the step."""
        self._bar.update(self._task, completed=step, status=status(metrics, self._pace.seconds_left(step)))

    def note(self, text: str) -> None:
        """Write a message above the bar."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


def rich_bar(console: object) -> Progress:
    """The bar with its columns: steps done, bar, status."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    assert isinstance(console, Console)
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
    )


def status(metrics: Mapping[str, float], seconds_left: float | None) -> str:
    """Reward (or loss), speed and time left in fixed columns; after an evaluation the held-out metric as well."""
    name = "loss" if "tokens/read" in metrics else "reward"
    value, seconds = metrics.get("loss" if name == "loss" else "reward/mean"), metrics.get("time/step")
    speed = metrics.get("tokens/generated", metrics.get("tokens/read", 0.0)) / seconds if seconds else None
    parts = [
        f"{name} {value:7.3f}" if value is not None else f"{name}       -",
        f"{speed:>7,.0f} tok/s" if speed is not None else "      - tok/s",
        f"{seconds:7.2f} s/step" if seconds is not None else "      - s/step",
        f"eta {clock(seconds_left):>8}",
    ]
    for held_out in ("accuracy", "perplexity"):
        if f"eval/{held_out}" in metrics:
            parts.append(f"{held_out} {metrics[f'eval/{held_out}']:.3f}")
    return "  ".join(parts)


def clock(seconds: float | None) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """The text on one line, with control and invisible characters written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
