"""Guarded calls of reward functions, which never stop the run and never hang.

Without a timeout, a function runs in this process. With one, it runs in a worker process (started afresh, not forked)
that is killed when a call takes longer. If a batch raises, hangs or kills the worker, its samples are called one by one,
so that only the guilty ones fail. A batch is given up when ``HUNG_IN_A_ROW`` samples after another have hung, or
``HUNG_IN_ALL`` of it: whatever its size it waits at most ``(HUNG_IN_ALL + 1) * timeout`` seconds, and
``(HUNG_IN_A_ROW + 1) * timeout`` for a function that always hangs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from enum import Enum
from multiprocessing.connection import Connection
from typing import Any, Protocol

from .. import errors
from ..user_functions import describe
from .protocol import Inputs
from .resolve import Reward
from .rows import Failure, Rows, WrongResult, concat_rows
from .worker import call

START_LIMIT = 300.0  # seconds for a worker to import the function
PIPE_LIMIT = 60  # seconds for one message to be written or read
HUNG_IN_A_ROW, HUNG_IN_ALL = 4, 32  # samples that may hang before the rest of the batch is given up
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from mindrlhf_grpo.rewards.worker import serve; serve(int(sys.argv[1]))"


class Trouble(Enum):
    """The kind of failure of a call, which decides what to try next."""

    RAISED = "raised"
    HUNG = "hung"
    DIED = "died"
    RESULT = "result"  # the answer cannot be matched to the samples: asking again does not help
    BROKEN = "broken"  # the function cannot be called at all


class CallFailed(Exception):
    """A call without rows, with the kind of trouble and its reason."""

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble


class Runner(Protocol):
    """Runs a reward function somewhere."""

    def run(self, inputs: Inputs, count: int) -> Rows: ...  # raises CallFailed, or UserError for a user's mistake
    def close(self) -> None: ...


class InProcess:
    """Runs a reward function in this process, without a time limit."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def run(self, inputs: Inputs, count: int) -> Rows:
        try:
            rows: Rows = call(self._reward.function, self._reward.settings, inputs, count)
        except (errors.UserError, KeyboardInterrupt):
            raise
        except WrongResult as error:
            raise CallFailed(Trouble.RESULT, str(error)) from error
        except BaseException as error:  # a library's timeout and sys.exit are no Exception
            raise CallFailed(Trouble.RAISED, describe(error)) from error
        return rows

    def close(self) -> None:
        """Do nothing: there is no process to end."""


class Worker:
    """Runs a reward function in a separate process, started at the first call and again after it was killed."""

    def __init__(self, reward: Reward, timeout: float) -> None:
        self._reward = reward
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def run(self, inputs: Inputs, count: int) -> Rows:
        connection = self._connection or self._start()
        try:
            connection.send((count, inputs))
        except OSError:
            raise self._died() from None
        except Exception as error:
            raise CallFailed(Trouble.BROKEN, f"its columns cannot be sent to a process: {describe(error)}") from error
        kind, *content = self._receive(connection, self._timeout, f"no answer within {self._timeout:g} s")
        if kind == "user":
            raise getattr(errors, content[0], errors.UserError)(content[1])
        if kind != "rows":
            raise CallFailed(Trouble.RESULT if kind == "wrong" else Trouble.RAISED, content[0])
        rows: Rows = content[0]
        return rows

    def close(self) -> None:
        """Kill the process and its children."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # not yet waited for, so the number is still its own
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PIPE_LIMIT, 0))
        with theirs:
            self._process = subprocess.Popen(
                # -u: what a reward prints is out before its process is killed
                [sys.executable, "-u", "-c", BOOT, str(theirs.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a reward prints must not mix with the trainer's own output
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._connection = connection = Connection(ours.detach())
        try:
            connection.send((self._reward.reference, dict(self._reward.settings), self._timeout))
            kind, *content = self._receive(connection, START_LIMIT, f"not loaded within {START_LIMIT:g} s")
        except (CallFailed, OSError) as error:
            self.close()
            raise CallFailed(Trouble.BROKEN, f"its process did not start: {error}") from error
        if kind != "ready":
            self.close()
            raise CallFailed(Trouble.BROKEN, f"its process did not start: {content[0]}")
        return connection

    def _receive(self, connection: Connection, seconds: float, overdue: str) -> tuple[Any, ...]:
        try:
            if connection.poll(seconds):
                message: tuple[Any, ...] = connection.recv()
                return message
        except (EOFError, OSError):
            raise self._died() from None
        except BaseException:  # an interrupt: a late answer must not be taken for the next call's
            self.close()
            raise
        self.close()
        raise CallFailed(Trouble.HUNG, overdue)

    def _died(self) -> CallFailed:
        process = self._process
        self.close()
        code = process.returncode if process is not None else None
        return CallFailed(Trouble.DIED, f"its process ended ({_exit_text(code)})")


def run_guarded(runner: Runner, inputs: Inputs, count: int) -> tuple[Rows, str]:
    """Return the rows of a batch, and why it was scored sample by sample (empty if one call sufficed).

    An answer that cannot be matched to the samples fails all of them: a function that returns too few or too many values
    for a batch may well return one value for one sample, but not the right one.
    """
    try:
        return runner.run(inputs, count), ""
    except CallFailed as error:
        reason = str(error)
        if count == 1 or error.trouble in (Trouble.RESULT, Trouble.BROKEN):
            return concat_rows([(count, Failure(reason))]), ""
    return _one_by_one(runner, inputs, count), reason


def _one_by_one(runner: Runner, inputs: Inputs, count: int) -> Rows:
    parts: list[tuple[int, Rows | Failure]] = []
    hung = in_a_row = 0
    for i in range(count):
        try:
            parts.append((1, runner.run({name: [values[i]] for name, values in inputs.items()}, 1)))
            in_a_row = 0
            continue
        except CallFailed as error:
            reason, trouble = str(error), error.trouble
        parts.append((1, Failure(reason)))
        hung, in_a_row = (hung + 1, in_a_row + 1) if trouble is Trouble.HUNG else (hung, 0)
        given_up = in_a_row == HUNG_IN_A_ROW or hung == HUNG_IN_ALL
        if i + 1 < count and (trouble is Trouble.BROKEN or given_up):
            parts.append((count - i - 1, Failure(f"not tried: the sample before had {reason}")))
            break
    return concat_rows(parts)


def _exit_text(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
