"""Memory of a run: division of weights over ranks, and the parts that leave the device between phases."""

from __future__ import annotations

from typing import Literal, get_args

from .section import Section, key

Strategy = Literal["replicate", "zero1", "zero2", "fsdp"]
RoleName = Literal["policy", "optimizer", "reference", "critic", "critic_optimizer", "engine", "kv_cache"]

# DeepSpeed's stages by number: each shards one thing more (arXiv:1910.02054, section 5).
ZERO_STAGES: dict[int, Strategy] = {0: "replicate", 1: "zero1", 2: "zero2", 3: "fsdp"}
TIMEOUT = 1800.0  # seconds, as of torch's gloo


class EngineParallelConfig(Section):
    """The engine's own division of the model over the ranks of a run."""

    tensor: int = key(
        1,
        "Ranks that hold slices of one model in generation; the others repeat it.",
        peers="verl: rollout.tensor_model_parallel_size; openrlhf: --vllm_tensor_parallel_size; vllm: tensor_parallel_size",
        ge=1,
    )


class ParallelConfig(Section):
    """Division of the trained models over the ranks of a run."""

    strategy: Strategy = key(
        "fsdp",
        "replicate: every rank holds everything; zero1: optimizer state is shared out, zero2: gradients too, fsdp (ZeRO-3): weights too.",
        peers="deepspeed: zero_optimization.stage; verl: actor.strategy; lightrft: --zero_stage, --fsdp",
    )
    tensor: int = key(
        1,
        "Ranks that hold slices of every matrix of one model and compute the same rows (tensor parallel); it divides the ranks, and strategy applies to the groups.",
        peers="megatron: --tensor-model-parallel-size; verl: actor.megatron.tensor_model_parallel_size; lightrft: --tp_size",
        ge=1,
    )
    timeout: float = key(
        TIMEOUT,
        "Seconds that ranks wait in a collective for one that does not join it; then the run ends. MindSpore ends when a rank is gone, and has no limit for one that hangs.",
        peers="trl: ddp_timeout; verl: nccl_timeout",
        gt=0,
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
