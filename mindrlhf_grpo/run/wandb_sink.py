"""Weights & Biases behind a thread: whatever its network does, training neither waits nor fails.

Every call into ``wandb`` is made on one daemon thread that is fed through a queue. A failure there becomes one
message; at the end of the run the thread gets a limited time to send the rest.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROJECT = "mindrlhf-grpo"
INIT_SECONDS = 30
CLOSE_SECONDS = 60.0
QUEUE_STEPS = 10_000


class WandbSink:
    """A run on Weights & Biases, or (offline) a folder that ``wandb sync`` can send later.

    A resumed run keeps its identity, which is stored in ``RUN/wandb.json``.
    """

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        *,
        offline: bool,
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self._queue: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(QUEUE_STEPS)
        self._failed = False
        self._thread = threading.Thread(target=self._work, args=(run_dir, config, offline), daemon=True, name="wandb")
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass a step to the thread without waiting."""
        if not self._failed:
            try:
                self._queue.put_nowait((step, metrics))
            except queue.Full:
                self._fail("it takes no data")

    def close(self) -> None:
        """Give the thread ``CLOSE_SECONDS`` to finish."""
        if self._failed:
            return
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._fail("it takes no data")
            return
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it did not finish in {CLOSE_SECONDS:.0f} s")

    def _work(self, run_dir: Path, config: dict[str, Any], offline: bool) -> None:
        try:
            run = start_run(run_dir, config, offline)
            while (item := self._queue.get()) is not None:
                run.log(dict(item[1]), step=item[0])
            run.finish()
        except Exception as error:  # wandb raises its own, requests' and protobuf's errors: none may end the run
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._note(f"warning: tracker wandb is off: {reason}. metrics.jsonl goes on")


def start_run(run_dir: Path, config: dict[str, Any], offline: bool) -> Any:
    """Call ``wandb.init`` with the identity stored in the run folder; key and project come from the environment."""
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run_identity(run_dir / "wandb.json"),
        name=run_dir.name,
        dir=str(run_dir),
        config=config,
        resume="allow",
        mode="offline" if offline else "online",
        settings=wandb.Settings(init_timeout=INIT_SECONDS, console="off", silent=True),
    )


def run_identity(path: Path) -> str:
    """Read the stored identity, or make and store a new one."""
    if path.exists():
        return str(json.loads(path.read_text())["id"])
    identity = uuid.uuid4().hex[:12]
    path.write_text(json.dumps({"id": identity}))
    return identity
