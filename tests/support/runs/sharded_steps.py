"""Run by torchrun: a few updates of tiny policies whose weights are shared out; rank 0 prints what came of each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mindrlhf_grpo_torch.comm import connect
from mindrlhf_grpo_torch.training.policy import TorchPolicy
from mindrlhf_grpo_torch.training.value_model import TorchValueModel

from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.types import Batch
from tests.support.tiny_policy import make_batch, run_config, weighted_loss

# Adam moves a weight whose gradient is rounding by as much as any other: the rate is small beside what is compared.
RATE = 1e-3
TRAIN = {"tokens_per_micro_batch": 12, "max_grad_norm": 0.5, "weight_decay": 0.1}
# strategy, model family, settings of the model: the last row of ranks' shares is uneven, and so are their micro-batches
CASES: list[tuple[Any, str, dict[str, Any]]] = [
    ("zero1", "qwen2", {}),
    ("zero2", "gpt2", {"lora_rank": 3, "lora_targets": ["c_attn", "c_proj"]}),
    ("fsdp", "deepseek_v3", {"recompute": True}),
]
# The same with every matrix in two slices; the vocabulary of 61 ids makes them uneven.
SLICED: list[tuple[Any, str, dict[str, Any]]] = [
    ("replicate", "qwen2", {}),
    ("replicate", "glm4", {"recompute": True}),
    ("replicate", "gemma2", {}),
    ("replicate", "llama", {"lora_rank": 3}),
    ("replicate", "deepseek_v3", {}),
]
SLICED_AND_SHARDED: list[tuple[Any, str, dict[str, Any]]] = [
    ("fsdp", "qwen2", {}),
    ("zero1", "llama", {"lora_rank": 3}),
    ("fsdp", "deepseek_v3", {"recompute": True}),
]


def share(batch: Batch, rank: int, ranks: int) -> Batch:
    """Four rows for the first rank, the others for the rest."""
    if ranks == 1:
        return batch
    return batch.take(np.arange(4) if rank == 0 else np.arange(4, len(batch)))


def steps(policy: TorchPolicy, rank: int, ranks: int, folder: Path) -> dict[str, Any]:
    """Two updates and a moved reference, a save and a load into the same policy, one more update."""
    batches = [share(make_batch(seed=seed), rank, ranks) for seed in range(3)]
    also = [(share(make_batch(seed=7), rank, ranks), weighted_loss)]
    found: dict[str, Any] = {"layout": policy.layout_reason, "held": held(policy)}
    found["peak"] = policy.division.peak_bytes
    found["results"] = [policy.update(batches[0], weighted_loss, learning_rate=RATE)]
    if not policy.config.model.lora_rank:
        policy.sync_reference(0.5)
    found["results"].append(policy.update(batches[1], weighted_loss, learning_rate=RATE, also=also))
    policy.gather()
    if policy.comm.rank == 0:
        policy.save_model(folder / "model")
        policy.save_state(folder / "state")
    policy.comm.barrier()
    before, digest = logps(policy, batches[2]), policy.fingerprint()
    third = policy.update(batches[2], weighted_loss, learning_rate=RATE)
    policy.load_state(folder / "model", folder / "state")
    found["same after loading"] = policy.fingerprint() == digest and logps(policy, batches[2]) == before
    again = policy.update(batches[2], weighted_loss, learning_rate=RATE)
    found["same step again"] = (third.loss, third.grad_norm) == (again.loss, again.grad_norm)
    found["results"] = [(one.loss, one.grad_norm) for one in (*found["results"], third)]
    norms = {name: float(whole.norm()) for name, whole in policy.full_tensors()}  # adapters merged
    return {**found, "logps": before, "norms": norms}


def critic(models: Path, comm: Any, strategy: Any, tensor: int) -> dict[str, Any]:
    """One step of a critic in bfloat16, whose head is in float32."""
    config = run_config(models / "qwen2", train=TRAIN, device="cpu", dtype="bfloat16")
    parallel = ParallelConfig(strategy=strategy, tensor=tensor)
    model = TorchValueModel(config.model, config.train, "before", torch.device("cpu"), comm, seed=0, parallel=parallel)
    batch = share(make_batch(seed=1), comm.rows.rank, comm.rows.world_size)
    result = model.update(batch, weighted_loss, learning_rate=RATE)
    return {"loss": result.loss, "norm": result.grad_norm, "layout": model.layout_reason}


def held(policy: TorchPolicy) -> int:
    """Numbers of the weights that this process holds."""
    return sum(local(weight).numel() for weight in policy.trainable.values())


def local(weight: Any) -> torch.Tensor:
    return weight.to_local() if hasattr(weight, "to_local") else weight


def logps(policy: TorchPolicy, batch: Batch) -> list[float]:
    """Sums over all ranks of the policy's and the reference's log-probs."""
    own = [float(policy.logps(batch, reference=reference).logps.sum()) for reference in (False, True)]
    return np.sum(policy.comm.rows.gather_objects(own), axis=0).tolist()


def main(models: Path, folder: Path, tensor: int = 1) -> dict[str, Any]:
    """Return the result of each case that these ranks can divide."""
    comm = connect("cpu", ParallelConfig(tensor=tensor) if tensor > 1 else None)
    rows = comm.rows
    cases = CASES if tensor == 1 else (SLICED if comm.world_size == tensor else SLICED_AND_SHARDED)
    found = {}
    for strategy, family, settings in cases if comm.world_size > 1 else [*CASES, *SLICED, *SLICED_AND_SHARDED]:
        config = run_config(models / family, train=TRAIN, device="cpu", **settings)
        config = config.model_copy(update={"parallel": ParallelConfig(strategy=strategy, tensor=tensor)})
        policy = TorchPolicy(config, torch.device("cpu"), comm)
        found[f"{strategy} {family}"] = steps(policy, rows.rank, rows.world_size, folder / f"{strategy}_{family}")
    found["critic"] = critic(models, comm, "zero1" if tensor > 1 and comm.world_size == tensor else "fsdp", tensor)
    if comm.rank == 0:
        print(json.dumps(found))
    comm.close()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
