"""A command of this recipe in several processes: the words that start it with MindSpore's msrun and PyTorch's torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import ConfigError
from ...run.stop_signals import Terminated

Launcher = Literal["msrun", "torchrun"]
LAUNCHERS: dict[str, Launcher] = {"mindspore": "msrun", "torch": "torchrun"}  # by backend
NAMES = ("python", "python3")  # that msrun takes for an interpreter; before any other word it puts `python`


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Processes on one machine or several.

    Attributes:
        workers: processes over all machines.
        local_workers: processes of this machine.
        node_rank: number of this machine, 0 for that of ``address``; None on a single machine.
        address, port: where the processes meet.
        further: options of msrun itself, as ``--name=value``.
    """

    launcher: Launcher
    workers: int
    local_workers: int
    node_rank: int | None
    address: str
    port: int
    log_dir: str
    further: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        workers, here = self.workers, self.local_workers
        if not 1 <= here <= workers:
            raise ConfigError(f"--local-workers is {here}; accepted: 1 to --workers, {workers}")
        if here == workers and self.node_rank:
            raise ConfigError(f"--node-rank is {self.node_rank}, and all {workers} workers are on this machine")
        if here < workers and self.node_rank is None:
            raise ConfigError(
                f"{here} of {workers} workers are on this machine: give each machine its --node-rank, "
                f"0 on that of --master-addr ({self.address})"
            )
        if self.launcher == "torchrun" and workers % here:
            raise ConfigError(f"torchrun starts as many processes on each machine: {here} does not divide {workers}")
        if self.launcher == "torchrun" and self.further:
            raise ConfigError(f"{self.further[0].partition('=')[0]} is an option of msrun, not of torchrun")

    def words(self, program: Sequence[str]) -> list[str]:
        """Return the words that start ``program``, what stands after ``python``.

        Both launchers are started as modules of this Python, so that no other installation is picked up.
        """
        if self.launcher == "torchrun":
            rank = [] if self.node_rank is None else [f"--node-rank={self.node_rank}"]
            return [
                sys.executable, "-m", "torch.distributed.run", f"--nnodes={self.workers // self.local_workers}", *rank,
                f"--nproc-per-node={self.local_workers}", f"--master-addr={self.address}",
                f"--master-port={self.port}", f"--log-dir={self.log_dir}", *program,
            ]  # fmt: skip
        rank = [] if self.node_rank is None else [f"--node_rank={self.node_rank}"]
        return [
            sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={self.workers}",
            f"--local_worker_num={self.local_workers}", f"--master_addr={self.address}",
            f"--master_port={self.port}", *rank, "--join=True", "--tail_worker_log=0", f"--log_dir={self.log_dir}",
            *self.further, interpreter().name, *program,
        ]  # fmt: skip

    def run(self, program: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start the processes, wait for their end and return the launcher's exit code.

        A SIGTERM is passed on: torchrun gives it to the workers, which save and end. msrun would die and leave its
        workers alone, so it gets a SIGINT, at which it ends them. Ctrl-C reaches the launcher without us.
        """
        passed_on = signal.SIGTERM if self.launcher == "torchrun" else signal.SIGINT
        with subprocess.Popen(self.words(program), env=environment) as launcher:
            while True:
                try:
                    return launcher.wait()
                except Terminated:
                    launcher.send_signal(passed_on)
                except KeyboardInterrupt:
                    continue

    def first_in_path(self) -> Path | None:
        """Return the folder to put first in PATH: msrun takes the first interpreter there, which is to be this one."""
        return interpreter().parent if self.launcher == "msrun" else None


def interpreter() -> Path:
    """Return this Python under a name that msrun takes; raises ConfigError where it has none."""
    folder = Path(sys.executable).parent
    named = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if named is None:
        raise ConfigError(f"msrun starts {' or '.join(NAMES)}, and {folder} has neither; use a virtual environment")
    return named
