"""The host link: ranks exchange host objects and watch that the others are alive.

It is a star of TCP connections around rank 0. MindSpore's collectives carry no tags: ranks that call them in different
orders get wrong numbers or hang. So each collective is announced here first (``comm.py``), and all host objects travel
here. A process that ends closes its sockets, and a machine that is lost stops answering TCP keep-alive; either ends the
other ranks with one message, even while they compute or wait in a collective.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from typing import Any

from mindrlhf_grpo.errors import RunFailed

KEY_BYTES = 32
BACKLOG = 128
GRACE = 30.0  # seconds this rank may go on after another one has left
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a silent machine is gone after 30 s
BYE = -1

Address = tuple[str, int]
End = Callable[[str], None]


class HostLink:
    """This rank's connections: to every other rank on rank 0, to rank 0 elsewhere.

    Args:
        talks, watches: connections by rank; objects travel on the first, only farewells on the second.
        end: called with a message, from another thread, when another rank has ended.
    """

    def __init__(self, rank: int, talks: dict[int, Connection], watches: dict[int, Connection], end: End) -> None:
        self.rank, self.talks, self.watches, self.end = rank, talks, watches, end
        self.closed = threading.Event()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, in rank order.

        Items are pickled in memory only, between ranks of one run that have shown its key.

        Raises:
            RunFailed: a rank has left.
        """
        if self.rank:
            self._send(0, item)
            items = self._receive(0)
            if isinstance(items, int):
                raise has_left(items)
            return list(items)
        items = [item]
        for rank in self.talks:
            try:
                items.append(self._receive(rank))
            except RunFailed:
                for other in self.talks.keys() - {rank}:
                    self._send(other, rank)
                raise
        for rank in self.talks:
            self._send(rank, items)
        return items

    def close(self) -> None:
        """Send a farewell: this rank has finished, or reports its own error."""
        if not self.closed.is_set():
            self.closed.set()
            self._notify(BYE)

    def _send(self, rank: int, item: Any) -> None:
        try:
            self.talks[rank].send(item)
        except OSError:
            raise self._lost(rank) from None

    def _receive(self, rank: int) -> Any:
        try:
            return self.talks[rank].recv()
        except (EOFError, OSError):
            raise self._lost(rank) from None

    def _lost(self, rank: int) -> RunFailed:
        """The error of a closed connection, after a moment in which the watching thread may report that the rank died."""
        time.sleep(1.0)
        return has_left(rank)

    def _notify(self, number: int) -> None:
        """Send a farewell, or the number of the rank that has ended, on every watched connection."""
        for connection in self.watches.values():
            try:
                connection.send(number)
            except OSError:
                continue

    def _watch(self) -> None:
        """Wait for the other ranks' farewells; end this process if one of them ends without a farewell."""
        open_ones: dict[Any, int] = {connection: rank for rank, connection in self.watches.items()}
        left: dict[int, float] = {}  # rank -> when this process must have ended too
        while (open_ones or left) and not self.closed.is_set():
            for ready in wait(list(open_ones), timeout=1.0):
                rank, number = open_ones.pop(ready), farewell(ready)
                if number != BYE:
                    self._end(rank if number is None else number)
                left[rank] = time.monotonic() + GRACE
            late = [rank for rank, limit in left.items() if time.monotonic() > limit]
            if late and not self.closed.is_set():
                self._end(late[0])

    def _end(self, rank: int) -> None:
        if self.closed.is_set():
            return
        self._notify(rank)
        self.end(
            f"rank {rank} has ended (killed, out of memory, or its machine is gone; its log may say more), "
            f"so rank {self.rank} ends too. The same command goes on after the last checkpoint."
        )


def farewell(connection: Any) -> int | None:
    """The last message of a watched rank; None if it ended without one."""
    try:
        return int(connection.recv())
    except (EOFError, OSError):
        return None


def has_left(rank: int) -> RunFailed:
    return RunFailed(f"rank {rank} has left the run; its log says why")


def end_process(message: str) -> None:
    """End the process at once: the main thread may never return from a collective."""
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(RunFailed.exit_code)


# ---- connecting


def listen(host: str) -> tuple[Listener, bytes]:
    """Open a port on rank 0; return it with the key that the others must know."""
    key = secrets.token_bytes(KEY_BYTES)
    return Listener((host, 0), backlog=BACKLOG, authkey=key), key


def accept(listener: Listener, world_size: int, end: End = end_process) -> HostLink:
    """Accept both connections of every other rank, on rank 0."""
    talks: dict[int, Connection] = {}
    watches: dict[int, Connection] = {}
    while len(talks) + len(watches) < 2 * (world_size - 1):
        try:
            connection = listener.accept()
            rank, watching = connection.recv()
        except (AuthenticationError, EOFError, OSError):
            continue  # a stranger
        (watches if watching else talks)[rank] = keep_alive(connection)
    listener.close()
    return HostLink(0, dict(sorted(talks.items())), watches, end)


def join(address: Address, key: bytes, rank: int, end: End = end_process) -> HostLink:
    """Make both connections to rank 0, on every other rank."""
    connections = []
    for watching in (False, True):
        connection = keep_alive(Client(address, authkey=key))
        connection.send((rank, watching))
        connections.append(connection)
    return HostLink(rank, {0: connections[0]}, {0: connections[1]}, end)


def keep_alive(connection: Connection) -> Connection:
    """Let the kernel detect that the other machine is gone."""
    with socket.socket(fileno=os.dup(connection.fileno())) as view:
        view.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):
                view.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def local_address(towards: str) -> str:
    """This machine's address on the network of ``towards``."""
    family = socket.getaddrinfo(towards, None)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))  # a datagram socket sends nothing by connecting
        return str(probe.getsockname()[0])
