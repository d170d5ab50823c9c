"""Run by torchrun in four processes: weights change layout on their way to the engine; rank 0 prints what came of each."""

from __future__ import annotations

import builtins
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mindrlhf_grpo_torch.comm import connect
from mindrlhf_grpo_torch.generation.engine import build_engine
from mindrlhf_grpo_torch.sync.resharding import Resharder
from mindrlhf_grpo_torch.sync.weight_sync import build_weight_sync
from mindrlhf_grpo_torch.training.policy import TorchPolicy

from mindrlhf_grpo.config.parallel import EngineParallelConfig, ParallelConfig
from mindrlhf_grpo.data.stream import shard
from mindrlhf_grpo.errors import RunFailed
from tests.support.tiny_engine import Letters, make_prompts, sampling, tokens
from tests.support.tiny_policy import make_batch, run_config, weighted_loss

BUCKET = 3000  # elements, so that the weights of a tiny model travel in several
# strategy and slices of the training, slices of the engine, model family, settings of the model
CASES: list[tuple[Any, int, int, str, dict[str, Any]]] = [
    ("fsdp", 1, 2, "qwen2", {}),
    ("replicate", 4, 1, "glm4", {}),
    ("fsdp", 2, 4, "deepseek_v3", {}),
    ("fsdp", 2, 2, "llama", {"lora_rank": 3}),
    ("replicate", 2, 2, "llama", {}),
]


def generated(policy: TorchPolicy, engine: Any, rows: Any) -> list[list[Any]]:
    """Tokens of every completion of all ranks, by request."""
    share = shard(make_prompts(), rows.rank, rows.world_size)
    own = tokens(engine.generate(share, sampling(), group_size=2))
    every = {key: ids for of_rank in rows.gather_objects(own) for key, ids in of_rank.items()}
    return [[list(key), ids] for key, ids in sorted(every.items())]


def one_case(policy: TorchPolicy, engine: Any) -> dict[str, Any]:
    """Train, push, generate; what moved, and what a damaged element brings."""
    policy.update(make_batch(seed=1).take(np.arange(0)) if policy.comm.rows.rank else make_batch(seed=1), weighted_loss,
                  learning_rate=0.01)  # fmt: skip
    sync: Any = build_weight_sync(policy, engine)
    found: dict[str, Any] = {"kind": type(sync).__name__, "decoder": engine.decoder_name}
    moved = hasattr(sync, "resharder")
    if moved:
        sync.resharder = Resharder(sync.resharder.plan, sync.resharder.comm, bucket=BUCKET)
    with no_files_opened():
        sync.push(1)
    found["tokens"] = generated(policy, engine, policy.comm.rows)
    found["fingerprints"] = sorted(set(policy.comm.gather_objects(policy.fingerprint())))
    if moved:
        found |= what_moved(sync.resharder) | {"damaged": damaged(sync)}
    return found


class no_files_opened:
    """Refuse to open a file inside the block."""

    def __enter__(self) -> None:
        self.open = builtins.open
        builtins.open = refuse

    def __exit__(self, *_: object) -> None:
        builtins.open = self.open


def refuse(*arguments: Any, **_: Any) -> Any:
    raise AssertionError(f"{arguments[0]} is opened during a push")


def what_moved(resharder: Resharder) -> dict[str, Any]:
    """Elements that each rank sent, received and staged, and those of the plan."""
    plan = resharder.plan
    own = (resharder.sent, resharder.received, resharder.staged)
    planned = [
        (*moved, staged) for moved, staged in zip(plan.moved_elements(), plan.staged_elements(BUCKET), strict=True)
    ]
    arrived = sum(copy.elements for copy in plan.copies)
    held = sum(torch.Size(shape).numel() for shapes in plan.targets for shape in shapes.values())
    return {
        "moved": resharder.comm.gather_objects(own), "planned": planned, "arrived": arrived, "held": held,
        "buckets": len(resharder.buckets),
    }  # fmt: skip


def damaged(sync: Any) -> list[str]:
    """What every rank says after an element of the last rank's engine was changed behind the push."""
    resharder, ranks = sync.resharder, sync.resharder.comm
    verify = resharder.verify

    def with_damage(sources: Any, targets: Any) -> None:
        if ranks.rank == ranks.world_size - 1:
            targets["model.norm.weight"][3] += 1e-3
        verify(sources, targets)

    resharder.verify = with_damage
    try:
        sync.push(2)
        said = "nothing"
    except RunFailed as error:
        said = str(error)
    return ranks.gather_objects(said)


def main(models: Path) -> dict[str, Any]:
    """Return the result of each case."""
    found, alone = {}, int(os.environ.get("WORLD_SIZE", "1")) == 1
    for strategy, tensor, engine_tensor, family, settings in CASES:
        parallel = ParallelConfig(strategy=strategy, tensor=1 if alone else tensor)
        comm = connect("cpu", parallel, EngineParallelConfig(tensor=1 if alone else engine_tensor))
        config = run_config(models / family, device="cpu", **settings)
        config = config.model_copy(update={"parallel": parallel})
        policy = TorchPolicy(config, torch.device("cpu"), comm)
        letters: Any = Letters()
        engine = build_engine(config, policy, letters, comm)
        found[f"{strategy} {tensor} to {engine_tensor} {family}"] = one_case(policy, engine)
    if comm.rank == 0:
        print(json.dumps(found))
    comm.close()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
