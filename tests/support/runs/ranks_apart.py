"""Run by torchrun: what ranks do together when one of them fails, is stopped, or does not see what the others see.

One group of processes for all cases: torch cannot open a second one under the same launcher reliably. Each rank writes a
line of JSON for each case to a file of its own (in the one output that ranks share, lines may run together).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mindrlhf_grpo_torch import comm

from mindrlhf_grpo.backend import load_backend
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import CheckpointError, Interrupted, RunFailed
from mindrlhf_grpo.trainers.online import OnlineTrainer

RANK = int(os.environ.get("RANK", "0"))


class Stopped(OnlineTrainer):
    """Rank 1 receives a signal during step 2, rank 0 none."""

    def collect(self, clock: Any) -> Any:
        if RANK == 1 and self.session.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().collect(clock)


def said_by(folder: Path, rank: int) -> Path:
    """The file of what a rank said."""
    return folder / f"said_{rank}.jsonl"


def case(folder: Path, name: str, run: Callable[[], Any], error: type[Exception]) -> None:
    """Write down the error of a case."""
    try:
        run()
        text, code = "no error", 0
    except error as raised:
        text, code = str(raised), getattr(raised, "exit_code", 1)
    with said_by(folder, RANK).open("a") as file:
        file.write(json.dumps({"case": name, "rank": RANK, "text": text, "code": code}) + "\n")


def main(config: Path, folder: Path) -> None:
    """Run the cases in turn."""
    comm.connect = cache(comm.connect)

    def settings(name: str, *overrides: str) -> RunConfig:
        found = load_config(config, [f"run_dir={folder / name}", *overrides])
        assert isinstance(found, RunConfig)
        return found

    def trainer(kind: type[OnlineTrainer], found: RunConfig) -> OnlineTrainer:
        return kind(found, load_backend(found))

    stopped = settings("stopped")
    case(folder, "stopped", lambda: trainer(Stopped, stopped).run(), Interrupted)
    case(folder, "resumed", lambda: trainer(OnlineTrainer, stopped).run(), RunFailed)
    # rank 1 looks for the run on a disk of its own machine
    elsewhere = stopped.model_copy(update={"run_dir": folder / "elsewhere"}) if RANK else stopped
    case(folder, "blind", lambda: trainer(OnlineTrainer, elsewhere), CheckpointError)
    failing = trainer(OnlineTrainer, settings("failing", f"algorithm.loss={folder / 'scaled.py'}:scaled"))
    os.environ["FACTOR"] = "nan"
    case(folder, "failing", failing.run, RunFailed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
