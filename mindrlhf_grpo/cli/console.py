"""The output that all commands share: errors as one clear block with an exit code, and the final summary.

``docs/operation.md`` has the table of exit codes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any, ParamSpec

import typer

from ..errors import Interrupted, UserError
from ..run.stop_signals import Terminated
from .streams import outliving_streams

P = ParamSpec("P")
BUG = 70


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: errors become one clear block on stderr and an exit code, with a traceback only on request."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with outliving_streams(), terminated_like_interrupted():
            try:
                command(*args, **kwargs)
            except (typer.Exit, typer.Abort):
                raise
            except Interrupted as error:
                if rank_of_process() > 0:  # the ranks end together: one says so
                    raise typer.Exit(error.exit_code) from None
                fail(str(error), error.exit_code)
            except UserError as error:
                fail(str(error), error.exit_code)
            except KeyboardInterrupt as error:
                terminated = isinstance(error, Terminated)
                fail(*("terminated", 128 + signal.SIGTERM) if terminated else ("interrupted", 128 + signal.SIGINT))
            except Exception as error:
                fail_on(error)

    return run


def fail_on(error: Exception) -> None:
    """Tell a shortage of memory or disk space to the user; everything else is a bug."""
    from ..run.shortages import shortage

    if os.environ.get("MINDRLHF_DEBUG"):
        raise error
    told = shortage(error)
    if told is not None:
        fail(str(told), told.exit_code)
    reason = " ".join(str(error).split())[:300]
    fail(f"{type(error).__name__}: {reason}\nThis is a bug; --debug shows the traceback.", BUG)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end what is under way as Ctrl-C does, in the block; without effect where a program has its own handler."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def fail(text: str, code: int) -> None:
    """Print an error and exit."""
    rank = rank_of_process()
    typer.secho(f"error{f' (rank {rank})' if rank > 0 else ''}: ", err=True, nl=False, fg=typer.colors.RED, bold=True)
    typer.echo(text, err=True)
    raise typer.Exit(code)


def rank_of_process() -> int:
    """Return this process's rank under torchrun or msrun: 0 for a single process, -1 for msrun's scheduler."""
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return -1
    value = os.environ.get("RANK", os.environ.get("RANK_ID", "0"))
    return int(value) if value.isdigit() else 0


def show_summary(summary: dict[str, Any]) -> None:
    """Print the summary as a table on stderr and as one JSON line on stdout."""
    from rich.console import Console
    from rich.table import Table

    from ..json_lines import to_json

    table = Table(show_header=False, box=None)
    for name, value in summary.items():
        if isinstance(value, dict):
            for inner_name, inner_value in value.items():
                table.add_row(f"{name} {inner_name}", readable(inner_value))
        else:
            table.add_row(name, readable(value))
    Console(stderr=True).print(table)
    typer.echo(to_json(summary))


def readable(value: Any) -> str:
    """Format a value of the summary: numbers with four digits, an interval as ``a to b``."""
    if isinstance(value, list):
        return " to ".join(readable(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
