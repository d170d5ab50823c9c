"""Run by msrun: a few updates of a tiny policy that ranks share out; rank 0 writes what came of each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
from mindrlhf_grpo_mindspore import comm, devices
from mindrlhf_grpo_mindspore.training import optimizer_shards
from mindrlhf_grpo_mindspore.training.policy import MindSporePolicy
from mindrlhf_grpo_mindspore.training.trained_model import RunContext

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.config.parallel import ParallelConfig, Strategy
from tests.support.runs.sharded_steps import share
from tests.support.tiny_policy import make_batch, run_config, weighted_loss

RATE = 1e-3
TRAIN = {"max_grad_norm": 0.5, "weight_decay": 0.1}
optimizer_shards.BUCKET = 3000  # several buckets, the last of an odd size


def steps(policy: MindSporePolicy, folder: Path) -> dict[str, Any]:
    """Two updates, a save, a third update, a load into the same policy, and the third again."""
    rank, ranks = policy.comm.rows.rank, policy.comm.rows.world_size
    batches = [share(make_batch(seed=seed), rank, ranks) for seed in range(3)]
    results = [policy.update(batch, weighted_loss, learning_rate=RATE) for batch in batches[:2]]
    policy.gather()
    if policy.comm.rank == 0:
        policy.save_model(folder / "model")
        policy.save_state(folder / "state")
    policy.comm.barrier()
    digest = policy.fingerprint()
    scores = policy.logps(batches[2], entropy=True)
    third = policy.update(batches[2], weighted_loss, learning_rate=RATE)
    after = policy.fingerprint()
    policy.load_state(folder / "model", folder / "state")
    loaded = policy.fingerprint()
    again = policy.update(batches[2], weighted_loss, learning_rate=RATE)
    return {
        "results": [(one.loss, one.grad_norm) for one in (*results, third)],
        "same after loading": loaded == digest,
        "same step again": policy.fingerprint() == after and (again.loss, again.grad_norm) == (third.loss, third.grad_norm),
        "same on every rank": len(set(policy.comm.gather_objects(after))) == 1,
        "logps": scores.logps.tolist(),
        "entropies": [] if scores.entropy is None else scores.entropy.tolist(),
        "state": sum(tensor.size for tensor in policy.optimizer.named_state().values()),
    }  # fmt: skip


def main(model: Path, folder: Path, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the result of each case by its name: settings of ``parallel`` and of ``model``."""
    ms.set_device("CPU")
    ranks = comm.connect("cpu")
    found = {}
    for name, settings in cases.items():
        parallel = ParallelConfig(**settings["parallel"])
        if isinstance(ranks, comm.MindSporeRanks):
            ranks.divide(parallel)
        found[name] = steps(load(model, parallel.strategy, ranks, settings["model"]), folder / name)
    if ranks.rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    ranks.close()
    return found


def load(model: Path, strategy: Strategy, ranks: Any, settings: dict[str, Any]) -> MindSporePolicy:
    config = run_config(model, train=TRAIN, device="cpu", **settings)
    context = RunContext(
        device=devices.Device("cpu"), comm=ranks, log=CompileLog(), seed=0, rollout=config.rollout, strategy=strategy
    )
    return MindSporePolicy(config, context)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
