"""Tracking: a run's metrics go to ``metrics.jsonl``, to the terminal, and on request to Weights & Biases or TensorBoard.

``metrics.jsonl`` is the record that the report is made from: one object per step, on disk before the next step begins.
The other places are copies: if one is missing or fails, the run prints a warning once and goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import yaml

from ..json_lines import read_json_lines, replace_file, to_json
from .completion_table import ShownCompletion
from .progress import Display, Lines, open_display

METRICS = "metrics.jsonl"


class Sink(Protocol):
    """A destination for the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class TableSink(Protocol):
    """A destination that also shows completions, as rows of ``wandb_sink.COLUMNS``."""

    def completion_table(self, step: int, rows: Sequence[Sequence[Any]]) -> None: ...


class Tracker:
    """Sends each step's metrics to every sink. One per run, on rank 0; other ranks use :func:`silent`.

    Args:
        run_dir: the run's folder.
        to: additional trackers: ``wandb``, ``wandb-offline``, ``tensorboard``.
        config_text: the resolved configuration as YAML, shown by trackers that can.
        steps: number of the last step, for the progress display.
        resume_step: last step to keep of an earlier, interrupted run; its later lines are removed. -1 keeps none, not
            even the evaluation before training.
    """

    def __init__(self, run_dir: Path, to: Sequence[str], *, config_text: str, steps: int, resume_step: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._sinks: list[Sink] = [MetricsFile(run_dir / METRICS, resume_step)]
        display = open_display(steps, max(0, resume_step))
        self._note: Callable[[str], None] = display.note
        self._display: Display | None = display
        self._sinks.append(display)
        self._tables: list[TableSink] = []
        for name in to:
            sink = open_sink(name, run_dir, config_text, resume_step, self.note)
            if sink is not None:
                self._sinks.append(sink)
                self._tables += [sink] if isinstance(sink, TableSink) else []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a step; values that are not finite are recorded as null."""
        plain = {name: plain_number(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.log(step, plain)

    def log_untrained(self, metrics: Mapping[str, float]) -> None:
        """Record the evaluation before training as step 0, which is no step of the progress display."""
        plain = {name: plain_number(value) for name, value in metrics.items()}
        for sink in self._sinks:
            if sink is not self._display:
                sink.log(0, plain)

    def completion_table(self, step: int, rows: Callable[[], Sequence[Sequence[Any]]]) -> None:
        """Show completions in the trackers that have tables; ``rows`` is called only where there is one."""
        if self._tables:
            table = rows()
            for sink in self._tables:
                sink.completion_table(step, table)

    def note(self, text: str) -> None:
        """Show a one-line message without breaking the progress bar."""
        self._note(text)

    def completions(self, title: str, rows: Sequence[ShownCompletion]) -> None:
        """Show a table of completions on the terminal."""
        if self._display is not None:
            self._display.completions(title, rows)

    def close(self) -> None:
        """Flush and close every sink. Trackers over a network get a limited time."""
        for sink in reversed(self._sinks):
            sink.close()
        self._sinks = []

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class SilentTracker(Tracker):
    """Discards everything but, where it is asked to speak, messages."""

    def __init__(self, *, speaks: bool = False) -> None:
        self._sinks, self._tables = [], []
        self._display = None
        self._note = Lines(0, 0).note if speaks else lambda text: None


def silent() -> Tracker:
    """The tracker of every rank but the first."""
    return SilentTracker()


def before_the_run() -> Tracker:
    """The tracker of the first rank while it loads: there are messages, and nothing to record yet."""
    return SilentTracker(speaks=True)


class MetricsFile:
    """``metrics.jsonl``: appended line by line, each flushed to the disk."""

    def __init__(self, path: Path, resume_step: int) -> None:
        keep_until(path, resume_step)
        self._file = path.open("ab")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line and wait until it is on the disk."""
        self._file.write(to_json({"step": step, **metrics}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def keep_until(path: Path, step: int) -> None:
    """Atomically drop the lines after a step, and those that a kill left half written."""
    if not path.exists():
        return
    rows = [row for row in read_json_lines(path).rows if isinstance(row.get("step"), int) and row["step"] <= step]
    replace_file(path, "".join(to_json(row) + "\n" for row in rows).encode())


def plain_number(value: float) -> float:
    """Convert a NumPy scalar to a Python number; integers stay integers."""
    return value if type(value) in (int, float) else float(value)


def open_sink(name: str, run_dir: Path, config_text: str, resume_step: int, note: Callable[[str], None]) -> Sink | None:
    """Open a tracker by its configuration name; None, with a message, where it cannot be used here.

    Raises:
        ValueError: unknown name.
    """
    package = {"wandb": "wandb", "wandb-offline": "wandb", "tensorboard": "tensorboard"}.get(name)
    if package is None:
        raise ValueError(f"tracker {name!r} is unknown; accepted: wandb, wandb-offline, tensorboard")
    if find_spec(package) is None:
        note(f"warning: tracker {name} is off: pip install 'mindrlhf-grpo[{package}]' brings it; {METRICS} goes on")
        return None
    if name == "tensorboard":
        from .tensorboard_sink import TensorBoardSink

        return TensorBoardSink(run_dir / "tensorboard", resume_step)
    from .wandb_sink import WandbSink, wandb_mode

    mode = wandb_mode(name)
    if mode == "disabled":
        note(f"tracker {name} is off: WANDB_MODE is disabled")
        return None
    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        note(f"warning: tracker wandb is off: WANDB_API_KEY is not set (wandb-offline needs none); {METRICS} goes on")
        return None
    config: dict[str, Any] = yaml.safe_load(config_text) or {}
    return WandbSink(run_dir, config, mode=mode, note=note)
