"""The command that runs a program in several processes: MindSpore's msrun or PyTorch's torchrun."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def command(
    program: Sequence[str], *, launcher: str, workers: int, local_workers: int, address: str, port: int, log_dir: str
) -> list[str]:
    """Words of the command; ``program`` is what follows ``python``.

    Both launchers are started as modules of this Python, so that no other installation is picked up.
    """
    if launcher == "torchrun":
        machines = -(-workers // local_workers)
        return [
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={machines}", f"--nproc-per-node={local_workers}",
            f"--master-addr={address}", f"--master-port={port}", f"--log-dir={log_dir}", *program,
        ]  # fmt: skip
    return [
        sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={workers}",
        f"--local_worker_num={local_workers}", f"--master_addr={address}", f"--master_port={port}", "--join=True",
        "--tail_worker_log=0", f"--log_dir={log_dir}", sys.executable, *program,
    ]  # fmt: skip
