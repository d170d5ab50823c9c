"""Progress on standard error: a bar on a terminal, one aligned line per step anywhere else.

Standard output is left to results. Control characters never reach the terminal, because messages may quote text that
a model wrote.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from .completion_table import ShownCompletion, completion_table
from .printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress

# The first of these that an evaluation has stands at the end of the step's line, under this name.
HELD_OUT = {
    "eval/accuracy": "accuracy", "eval/perplexity": "perplexity", "eval/reward/mean": "held-out reward",
}  # fmt: skip


class Display(Protocol):
    """Shows steps and one-line messages."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def completions(self, title: str, rows: Sequence[ShownCompletion]) -> None: ...
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
    """Prints one line per step, however wide."""

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

    def completions(self, title: str, rows: Sequence[ShownCompletion]) -> None:
        """Write a table of completions."""
        from rich.console import Console

        Console(stderr=True).print(completion_table(title, rows))

    def close(self) -> None:
        """Nothing to do."""


class Bar:
    """A progress bar with the metrics of the last step beside it, as many as the terminal has room for."""

    def __init__(self, console: object, steps: int, done: int) -> None:
        self._pace = Pace(steps, done)
        self._bar = rich_bar(console)
        self._task = self._bar.add_task("train", total=steps, completed=done, status="")
        self._bar.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar to the step."""
        counted = len(f"step {self._pace.steps}/{self._pace.steps} ")
        room = self._bar.console.width - counted - bar_width(self._bar.console.width) - 2
        self._bar.update(self._task, completed=step, status=status(metrics, self._pace.seconds_left(step), room))

    def note(self, text: str) -> None:
        """Write a message above the bar."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def completions(self, title: str, rows: Sequence[ShownCompletion]) -> None:
        """Write a table of completions above the bar."""
        self._bar.console.print(completion_table(title, rows))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


def bar_width(columns: int) -> int:
    """Width of the bar itself on a terminal: the figures beside it go before."""
    return 24 if columns >= 120 else 10 if columns >= 70 else 4


def rich_bar(console: object) -> Progress:
    """The bar with its columns: steps done, bar, status."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    assert isinstance(console, Console)
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=bar_width(console.width)),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
    )


def status(metrics: Mapping[str, float], seconds_left: float | None, room: int | None = None) -> str:
    """Reward, loss, KL, speed and time left in fixed columns; after an evaluation the held-out metric as well.

    Args:
        room: columns there are; the least important figures are left out until the rest fits. None: no limit.
    """
    offline, seconds = "tokens/read" in metrics, metrics.get("time/step")
    name, value = ("loss", metrics.get("loss")) if offline else ("reward", metrics.get("reward/mean"))
    loss, kl = None if offline else metrics.get("loss"), metrics.get("kl/mean")
    speed = metrics.get("tokens/generated", metrics.get("tokens/read", 0.0)) / seconds if seconds else None
    parts = {  # in the order of the line
        "value": f"{name} {value:7.3f}" if value is not None else f"{name}       -",
        "loss": f"loss {loss:8.4f}" if loss is not None else "",
        "kl": f"kl {kl:7.4f}" if kl is not None else "",
        "speed": f"{speed:>7,.0f} tok/s" if speed is not None else "      - tok/s",
        "time": f"{seconds:7.2f} s/step" if seconds is not None else "      - s/step",
        "eta": f"eta {clock(seconds_left):>8}",
        "held-out": held_out_status(metrics),
    }
    for least in ("speed", "time", "kl", "loss", "held-out", "value"):
        if room is None or len("  ".join(filter(None, parts.values()))) <= room:
            break
        parts[least] = ""
    return "  ".join(filter(None, parts.values()))


def held_out_status(metrics: Mapping[str, float]) -> str:
    """The held-out figure of a step that was evaluated; empty for the others."""
    for metric, name in HELD_OUT.items():
        if metrics.get(metric) is not None:
            return f"{name} {metrics[metric]:.3f}"
    return ""


def clock(seconds: float | None) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
