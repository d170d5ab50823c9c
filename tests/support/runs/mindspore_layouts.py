"""Run by msrun: whole runs one after another in the same workers, each with its own division of the models over ranks.

Starting workers takes longer than a tiny run, so their connections are kept from one run to the next.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import mindspore as ms
from mindrlhf_grpo_mindspore import backend, comm, devices

from mindrlhf_grpo import trainers
from mindrlhf_grpo.config.file import read_config
from mindrlhf_grpo.config.parallel import EngineParallelConfig, ParallelConfig
from mindrlhf_grpo.trainers.preflight import check


class Kept(comm.MindSporeRanks):
    """Ranks that stay connected when a run ends."""

    def close(self) -> None:
        self.barrier()

    def leave(self) -> None:
        super().close()


def main(configs: list[str]) -> None:
    """Train every configuration; rank 0 prints what each took."""
    ms.set_device("CPU")
    ranks = Kept("cpu")

    def connect(
        device_kind: str, settings: ParallelConfig | None = None, engine: EngineParallelConfig | None = None
    ) -> Any:
        ranks.divide(settings, engine)
        return ranks

    comm.connect = connect
    backend.select = lambda *_: devices.Device("cpu")  # type: ignore[attr-defined]  # it is set once
    for config in configs:
        started = time.perf_counter()
        settings, draft = read_config(Path(config), [])
        check(settings, draft)
        trainers.train(settings)
        if ranks.rank == 0:
            print(json.dumps({"config": config, "seconds": time.perf_counter() - started}), flush=True)
    ranks.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
