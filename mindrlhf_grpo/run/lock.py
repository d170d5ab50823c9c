"""The lock of a run folder: one process writes it, a second one is refused.

The kernel holds the lock and drops it however its owner ends, so that a lock of a dead process is taken over. Not every
file system tells other machines of it. So the file names its owner, for people and for other machines; the owner touches
it every few seconds, and another machine takes the folder over only when the touches have stopped.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError

FILE = "run.lock"
BEAT = 5.0  # seconds between touches
WATCH = 30.0  # seconds without a touch after which an owner on another machine is taken for dead


class RunLock:
    """The lock of one folder.

    Args:
        folder: the folder of a run; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._file: BinaryIO | None = None
        self._ended = threading.Event()

    def acquire(self) -> str:
        """Take the lock; returns a line about an owner that has died without releasing it, else an empty text.

        Raises:
            CheckpointError: another process has the folder; the text names it and the way out.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = self.path.open("a+b")
            locked, owner = _lock(file), _read(file)
            here = owner.get("host") == socket.gethostname()
            if not _same(file, self.path):  # its owner has removed it since it was opened
                file.close()
            elif here and owner.get("pid") == os.getpid() and not locked:
                file.close()  # of an earlier run of this process, which ended with an error
                self.path.unlink()
            elif locked is False or (locked is None and here and _alive(owner)) or self._beats(file, owner):
                file.close()
                raise CheckpointError(self._refusal(owner))
            else:
                self._take(file)
                return f"{self.path.parent} was in use by {_name(owner)}, which has ended since" if owner else ""

    def release(self) -> None:
        """Remove the file and drop the lock."""
        atexit.unregister(self.release)
        self._ended.set()
        if self._file is not None:
            if _same(self._file, self.path):
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _take(self, file: BinaryIO) -> None:
        """Write this process's name and keep touching the file."""
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
        file.truncate(0)
        file.write(json.dumps(owner).encode() + b"\n")
        file.flush()
        self._file = file
        atexit.register(self.release)
        threading.Thread(target=_touch, args=(file.fileno(), self._ended), name="run lock", daemon=True).start()

    def _beats(self, file: BinaryIO, owner: dict[str, Any]) -> bool:
        """Whether an owner on another machine still touches the file; waits until that is clear."""
        if not owner or owner.get("host") == socket.gethostname():
            return False
        last, until = os.fstat(file.fileno()).st_mtime_ns, time.monotonic() + WATCH
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH / 10))
            with self.path.open("rb") as fresh:  # opening it again makes a network file system look again
                if os.fstat(fresh.fileno()).st_mtime_ns != last:
                    return True
        return False

    def _refusal(self, owner: dict[str, Any]) -> str:
        return (
            f"{self.path.parent} is in use by {_name(owner)}: two processes in one folder would destroy each other's "
            f"checkpoints. Wait for it, end it, or use another run_dir; if it is no longer there, delete {self.path}"
        )


def _lock(file: BinaryIO) -> bool | None:
    """Take the kernel's lock of a file; False if another process has it, None where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _alive(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(int(owner["pid"]), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, KeyError, ValueError):
        return False
    return True


def _same(file: BinaryIO, path: Path) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(file: BinaryIO) -> dict[str, Any]:
    """What the owner has written; nothing in a new file."""
    file.seek(0)
    try:
        owner = json.loads(file.read() or b"{}")
    except ValueError:
        return {"pid": "unknown"}
    return owner if isinstance(owner, dict) else {}


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')} since {owner.get('since', '?')}"


def _touch(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        try:
            os.utime(descriptor)
        except OSError:  # closed, or the file system is gone: the run will notice by itself
            return
