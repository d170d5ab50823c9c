"""Memory of a run: sharding of weights over ranks, and the parts that leave the device between phases."""

from __future__ import annotations

from typing import Literal, get_args

from .section import Section, key

Strategy = Literal["replicate", "zero1", "zero2", "fsdp"]
RoleName = Literal["policy", "optimizer", "reference", "critic", "critic_optimizer", "engine", "kv_cache"]

# DeepSpeed's stages by number: each shards one thing more (arXiv:1910.02054, section 5).
ZERO_STAGES: dict[int, Strategy] = {0: "replicate", 1: "zero1", 2: "zero2", 3: "fsdp"}


class ParallelConfig(Section):
    """Sharding of the trained models over the ranks of a run."""

    strategy: Strategy = key(
        "fsdp",
        "replicate: every rank holds everything; zero1: optimizer state is shared out, zero2: gradients too, fsdp (ZeRO-3): weights too.",
        peers="deepspeed: zero_optimization.stage; verl: actor.strategy; lightrft: --zero_stage, --fsdp",
    )
    offload: bool = key(
        False,
        "Keep shards of weights and optimizer in host memory between uses.",
        peers="deepspeed: offload_param; lightrft: --fsdp_cpu_offload",
    )


class SwapConfig(Section):
    """Parts that leave the device in phases of a step that do not need them."""

    roles: list[RoleName] = key(
        list(get_args(RoleName)),
        "Parts that move to host memory between their phases; what a run does not have is ignored.",
        peers="verl: fsdp_config.param_offload, fsdp_config.optimizer_offload",
    )
