"""Commands in processes of their own that start at once: forked from a process that has imported everything.

A Python that imports torch, transformers and this project takes longer than a tiny run, and a launcher with two ranks does it
three times. One server for each process of pytest imports them once; what it forks is a real process, with its own memory, signals,
working folder and exit code. How programs start from a shell, and the launchers, are shown by tests that say so.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tests.support.tiny import environment

IMPORTED = [
    "torch", "torch.distributed.fsdp", "transformers", "transformers.models.llama.modeling_llama", "peft",
    "mindrlhf_grpo.cli.main", "mindrlhf_grpo.trainers", "mindrlhf_grpo_torch", "mindrlhf_grpo_torch.training.policy",
    "mindrlhf_grpo_torch.training.value_model", "mindrlhf_grpo_torch.generation.engine",
    "mindrlhf_grpo_torch.sync.weight_sync",
]  # fmt: skip


@cache
def server() -> ForkServerContext:
    """The server of this process of pytest; it starts with the first command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


@dataclass(frozen=True, slots=True)
class Command:
    """A running command; its output is in files."""

    process: ForkServerProcess
    out: Path
    err: Path

    def wait(self, seconds: float | None = 300) -> int:
        """Wait for the exit code, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.out.name, seconds or 0)
        return code

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as ``kill -9`` does, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.process.join()

    def said(self) -> str:
        """Everything it has written so far, for messages of failed tests."""
        return self.out.read_text()[-2000:] + self.err.read_text()[-4000:]


def start(words: Sequence[str], folder: Path | None = None, variables: Mapping[str, str] | None = None) -> Command:
    """Start ``mindrlhf-grpo WORDS``, or a script of Python where the first word is one.

    Args:
        folder: the working folder, this process's if None.
        variables: of the environment, beside those of every tiny run.
    """
    said = Path(tempfile.mkdtemp(prefix="command-"))
    out, err = said / "out", said / "err"
    out.touch()
    err.touch()
    surroundings = {**environment(), **(variables or {})}
    place = str(folder or Path.cwd())
    process = server().Process(target=run, args=(list(words), place, surroundings, str(out), str(err)))
    process.start()
    return Command(process, out, err)


def ranks(words: Sequence[str], count: int, variables: Mapping[str, str] | None = None) -> list[Command]:
    """Start a command as so many ranks of torch.distributed, as torchrun would on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), **(variables or {})}  # fmt: skip
    return [start(words, variables={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


def finish(commands: Sequence[Command]) -> str:
    """Wait until all have ended well; what the first has written to its standard output."""
    codes = [command.wait() for command in commands]
    assert codes == [0] * len(codes), "\n".join(command.said() for command in commands)
    return commands[0].out.read_text()


def run(words: list[str], folder: str, variables: dict[str, str], out: str, err: str) -> None:
    """The forked process: it becomes the command."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    import torch

    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    try:
        if words[0].endswith(".py"):
            sys.argv = list(words)
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
        else:
            from mindrlhf_grpo.cli.main import main

            sys.argv = ["mindrlhf-grpo", *words]
            main()
    except Exception:  # as Python ends a program; the exit code alone would be written nowhere
        traceback.print_exc()
        sys.exit(1)
