"""Calls of an environment's code, beside generation: what raises or hangs is a text, and nothing waits for it longer.

A call runs in a thread of its own. Python cannot end a thread: one that hangs is left behind, and its environment is
not used again. A thread that never gives up the interpreter still slows the others; code that may do so belongs into
a process.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from ..user_functions import describe

T = TypeVar("T")


class CallFailed(Exception):
    """A call without a result; ``hung``: it may still run."""

    def __init__(self, reason: str, *, hung: bool = False) -> None:
        super().__init__(reason)
        self.hung = hung


def in_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Run a function in a thread that does not keep the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # sys.exit, or a library's own timeout
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def guarded(function: Callable[[], Any], seconds: float, file: str) -> tuple[Any, float]:
    """The result of a user's function and the seconds it took; a coroutine is run to its end.

    Args:
        seconds: that it may take; 0: any number.
        file: the user's file, whose line a message names.

    Raises:
        CallFailed: it raised, or did not return in time.
    """
    start = time.perf_counter()
    try:
        result = in_thread(lambda: _finished(function()), "environment").result(seconds or None)
    except NotInTime as error:
        if time.perf_counter() - start >= seconds > 0:
            raise CallFailed(f"no answer within {seconds:g} s", hung=True) from None
        raise CallFailed(describe(error, file)) from error  # the function's own timeout
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        raise CallFailed(describe(error, file)) from error
    return result, time.perf_counter() - start


def _finished(result: Any) -> Any:
    return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _awaited(result: Any) -> Any:
    return await result
