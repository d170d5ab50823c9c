"""The process of one program under test: it limits itself, runs code and tests, and reports the end.

It is started as a script by ``unit_tests.py``, in an empty folder, with the order as JSON on standard input and the number
of a pipe as argument, and it imports only the standard library. Limits of the system bound time, memory and the size of
written files (0 bytes). An audit hook, which Python cannot remove again, refuses what has no such limit: writing, moving and
deleting files, sockets, new processes, signals, and ``ctypes``, by which a program could leave Python. Native code in other
libraries is not seen by the hook.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
REFUSED = (
    "socket.", "subprocess.", "ctypes.", "shutil.", "ftplib.", "http.client.", "smtplib.", "urllib.", "webbrowser.",
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.chmod",
    "os.chown", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime",
    "os.setxattr", "pty.spawn", "signal.pthread_kill", "resource.setrlimit", "resource.prlimit",
    "tempfile.", "sqlite3.connect", "mmap.",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def limit(seconds: float, memory_mb: int) -> None:
    """Set the limits of the system for this process."""
    whole = int(seconds) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, whole),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (most, most))


def end_with_parent() -> None:
    """Ask Linux to end this process with the one that started it."""
    with contextlib.suppress(OSError, AttributeError):  # other systems: the limits of time remain
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise PermissionError for an event of Python's audit that a program under test must not cause."""
    if event == "open":
        path, mode, flags = arguments
        writes = isinstance(flags, int) and flags & WRITES
        if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and path != os.devnull:
            raise PermissionError(f"a program under test must not write {path!r}")
    elif event.startswith(REFUSED):
        raise PermissionError(f"a program under test must not use {event}")


def main() -> None:
    report = int(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    word, code, tests = order.pop("word"), order.pop("code"), order.pop("tests")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    end_with_parent()
    sys.argv = ["program"]
    limit(order["seconds"], order["memory_mb"])
    sys.addaudithook(refuse)
    leave, write = os._exit, os.write
    names: dict[str, Any] = {"__name__": "program", "__builtins__": __builtins__}
    try:
        exec(compile(code, "program", "exec"), names)
        for test in tests:
            exec(compile(test, "test", "exec"), names)
    except BaseException:  # sys.exit too: the tests did not reach their end
        leave(1)
    write(report, word.encode())
    leave(0)


if __name__ == "__main__":
    main()
