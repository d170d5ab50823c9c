"""The process of a guarded reward: it answers one call at a time over a socket until it is closed or killed.

It imports neither the trainer nor its frameworks. Messages are tuples whose first entry names their kind:
``("ready",)``, ``("rows", Rows)``, ``("wrong", reason)``, ``("raised", reason)``, ``("user", error type, text)``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from .. import errors
from ..user_functions import describe
from .protocol import Inputs
from .resolve import Function, load_function, prepare
from .rows import WrongResult, read_result

GRACE = 2.0  # seconds after the time limit at which an orphan ends itself
_killable = False


def killable() -> bool:
    """Return whether this is a worker process, where a function needs no time limit of its own."""
    return _killable


def serve(descriptor: int) -> None:
    """Answer calls until the other end is closed. The first message is (reference, settings, timeout)."""
    global _killable
    _killable = True
    os.set_inheritable(descriptor, False)
    # Default action: the system ends this process even if the reward holds the interpreter and the trainer is gone.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # a cluster sends them to every process: the trainer's step still needs this one
        signal.signal(number, lambda *_: None)  # a function is not inherited by programs that a reward starts
    with Connection(descriptor) as connection:
        try:
            reference, settings, timeout = connection.recv()
            function = load_function(reference, label="reward")
            prepare(reference)
            connection.send(("ready",))
            while True:
                connection.send(_answer(connection, function, settings, timeout))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except BaseException as error:
            connection.send(("raised", describe(error)))


def _answer(connection: Connection, function: Function, settings: Mapping[str, Any], timeout: float) -> tuple[Any, ...]:
    message = connection.recv_bytes()
    signal.setitimer(signal.ITIMER_REAL, timeout + GRACE)
    try:
        return _call(message, function, settings)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _call(message: bytes, function: Function, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    try:
        count, inputs = ForkingPickler.loads(message)
        return ("rows", call(function, settings, inputs, count))
    except WrongResult as error:
        return ("wrong", str(error))
    except errors.UserError as error:
        return ("user", type(error).__name__, str(error))
    except BaseException as error:  # in this process SystemExit and KeyboardInterrupt can only be the reward's
        return ("raised", describe(error))


def call(function: Function, settings: Mapping[str, Any], inputs: Inputs, count: int) -> Any:
    """Call a reward function and read its answer for ``count`` samples."""
    return read_result(function(**inputs, **settings), count)
