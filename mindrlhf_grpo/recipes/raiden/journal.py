"""Jobs that survive a kill: each result is appended to a file as one line, and is on disk before the next job begins.

Started again with the same file, finished jobs are read from it and only the others are done, so nothing is lost and
nothing is done twice. A line that a kill left half written is dropped. The first line holds the settings that the results
depend on, so that results of two settings never mix. Two processes cannot use one file at the same time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import DataError
from ...json_lines import numbered_lines, parse_object

LOG = logging.getLogger("mindrlhf_grpo.recipes.raiden.journal")
START = b'{"settings"'


class Journal:
    """Results of jobs by key, kept in a file; use it in a ``with``.

    Attributes:
        done: key -> result of each finished job, in the order of finishing.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin the file; ``settings`` are the plain JSON values that results depend on.

        Raises:
            DataError: the file belongs to other settings, is not a journal, or is in use.
        """
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(json.loads(json.dumps(settings)))
        except OSError:
            self._file.close()
            raise DataError(f"{path} is in use by another process; wait for it, or write elsewhere") from None
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Store a result and return when it is on disk; raises ValueError for a job that is already done."""
        if key in self.done:
            raise ValueError(f"{self.path}: job {key} is done already")
        self._append({"key": key, "result": result})
        self.done[key] = dict(result)

    def work_off(
        self,
        jobs: Mapping[str, Any],
        work: Callable[[Any], Mapping[str, Any] | None],
        *,
        threads: int,
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        """Do every job that is not done; ``work`` returns its result, or None to leave it undone.

        Args:
            finished: called after each job, whether it has a result or not.

        Raises:
            Exception: the first exception of ``work``, after the running jobs have ended; their results are kept.
        """
        waiting = iter([(key, job) for key, job in jobs.items() if key not in self.done])
        running: dict[Future[Mapping[str, Any] | None], str] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(threads) as pool:
            try:
                while True:
                    while failure is None and len(running) < threads and (item := next(waiting, None)) is not None:
                        running[pool.submit(work, item[1])] = item[0]
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        key = running.pop(future)
                        failure = failure or future.exception()
                        if future.exception() is None and (result := future.result()) is not None:
                            self.add(key, result)
                        finished()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failure is not None:
            left = len(jobs.keys() - self.done.keys())
            LOG.warning(
                "%s: %d of %d jobs are done and kept, %d are left", self.path, len(jobs) - left, len(jobs), left
            )
            raise failure

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        content = self._file.read()
        if content[: len(START)] != START[: len(content)]:
            raise DataError(
                f"{self.path} is no journal of jobs: it does not begin with its settings; name another file"
            )
        complete = content[: content.rfind(b"\n") + 1]
        lines = list(self._objects(complete))
        self._file.truncate(len(complete))  # a line that a kill cut in two
        if not lines:
            self._append({"settings": settings})
            return
        first, *others = lines
        for name in {**first["settings"], **settings}:
            then, now = first["settings"].get(name), settings.get(name)
            if then != now:
                raise DataError(
                    f"{self.path} holds results made with {name} {then!r}, now it is {now!r}; go on as before, or write elsewhere"
                )
        for line in others:
            self.done.setdefault(str(line["key"]), line["result"])

    def _objects(self, content: bytes) -> Iterator[dict[str, Any]]:
        for number, line in numbered_lines(content):
            parsed = parse_object(line)
            if isinstance(parsed, str):
                raise DataError(f"{self.path}:{number}: {parsed}; the journal was changed by something else")
            yield parsed

    def _append(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
