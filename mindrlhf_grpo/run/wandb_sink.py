"""Weights & Biases behind a thread: whatever its network does, training neither waits nor fails.

The environment says what belongs to a person or a place: WANDB_API_KEY, WANDB_PROJECT, WANDB_NAME (else the run folder's
name), WANDB_MODE, and what the package itself reads (WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS).

Every call into ``wandb`` is made on one daemon thread that is fed through a queue. A failure there becomes one
message; at the end of the run the thread gets a limited time to send the rest.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..errors import ConfigError

PROJECT = "mindrlhf-grpo"
INIT_SECONDS = 30
CLOSE_SECONDS = 60.0
QUEUE_STEPS = 10_000
Mode: TypeAlias = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {"online": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
COLUMNS = ("step", "prompt", "completion", "reward", "advantage", "finish")  # of the table of completions

Table: TypeAlias = Sequence[Sequence[Any]]  # one row per completion, in the order of COLUMNS


def wandb_mode(name: str) -> Mode:
    """How the tracker ``wandb`` or ``wandb-offline`` sends: ``online``, ``offline`` or ``disabled``, by WANDB_MODE.

    Raises:
        ConfigError: WANDB_MODE has another value.
    """
    asked = os.environ.get("WANDB_MODE", "").strip().lower() or "online"
    if asked not in MODES:
        raise ConfigError(f"WANDB_MODE is {asked!r}; accepted: {', '.join(MODES)}")
    return "offline" if name == "wandb-offline" and MODES[asked] == "online" else MODES[asked]


class WandbSink:
    """A run on Weights & Biases, or (offline) a folder that ``wandb sync`` can send later.

    A resumed run keeps its identity, which is stored in ``RUN/wandb.json``.
    """

    def __init__(
        self,
        run_dir: Path,
        config: dict[str, Any],
        *,
        mode: Mode,
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self._queue: queue.Queue[tuple[int, Mapping[str, float] | Table] | None] = queue.Queue(QUEUE_STEPS)
        self._failed = False
        self._thread = threading.Thread(target=self._work, args=(run_dir, config, mode), daemon=True, name="wandb")
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass a step to the thread without waiting."""
        self._put(step, metrics)

    def completion_table(self, step: int, rows: Table) -> None:
        """Pass a step's completions to the thread, which shows them as the table ``completions``."""
        self._put(step, rows)

    def _put(self, step: int, content: Mapping[str, float] | Table) -> None:
        if not self._failed:
            try:
                self._queue.put_nowait((step, content))
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

    def _work(self, run_dir: Path, config: dict[str, Any], mode: Mode) -> None:
        try:
            run = start_run(run_dir, config, mode)
            while (item := self._queue.get()) is not None:
                step, content = item
                run.log(
                    dict(content) if isinstance(content, Mapping) else {"completions": as_table(content)}, step=step
                )
            run.finish()
        except Exception as error:  # wandb raises its own, requests' and protobuf's errors: none may end the run
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._note(f"warning: tracker wandb is off: {reason}. metrics.jsonl goes on")


def as_table(rows: Table) -> Any:
    """The completions as a table of Weights & Biases."""
    import wandb

    return wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])


def start_run(run_dir: Path, config: dict[str, Any], mode: Mode) -> Any:
    """Call ``wandb.init`` with the identity stored in the run folder; key, project and name come from the environment."""
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run_identity(run_dir / "wandb.json"),
        name=os.environ.get("WANDB_NAME") or run_dir.name,
        dir=str(run_dir),
        config=config,
        resume="allow",
        mode=mode,
        settings=wandb.Settings(init_timeout=INIT_SECONDS, console="off", silent=True),
    )


def run_identity(path: Path) -> str:
    """Read the stored identity, or make and store a new one."""
    if path.exists():
        return str(json.loads(path.read_text())["id"])
    identity = uuid.uuid4().hex[:12]
    path.write_text(json.dumps({"id": identity}))
    return identity
