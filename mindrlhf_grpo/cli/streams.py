"""Standard output and standard error of a command, which outlive their readers.

A pipe whose reader has left (``| head``, a dead ``tee``), a terminal that is gone and a full disk under a log file take no
more text. That must not end a training run, nor a reward that prints: the text is dropped, and the command goes on. What
a run writes to its folder does not pass through here.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

GONE = (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ESTALE, errno.ENXIO)


class Outliving:
    """A text stream that drops what nobody can read any more; everything else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        with self._dropping():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what was not."""
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                raise
            with suppress(OSError, ValueError):  # also for what is buffered, and for processes that inherit it
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def outliving_streams() -> Iterator[None]:
    """Let both streams outlive their readers in the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("Any", Outliving(stream)) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
