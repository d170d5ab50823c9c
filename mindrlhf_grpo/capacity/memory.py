"""Peak memory of a run's phases, predicted from sizes alone: nothing is loaded.

Every figure is bytes on the device that computes, for one rank. The parts of a phase add up to its peak.
Legend: V vocabulary, E hidden size, T tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..config.file import AnyConfig
from ..config.offline import OfflineConfig
from ..config.parallel import RoleName
from ..config.run import ModelConfig, RunConfig
from ..parallel.residency import NEEDS
from .device_layout import DeviceLayout
from .model_shape import ModelShape

BYTES = {"float32": 4, "bfloat16": 2}
HEAD_CHUNK = 256  # positions whose logits exist at once
PREFILL_TOKENS = 4096  # prompt tokens computed together before generation
# Bytes that autograd keeps for each token in one block of a Llama-like model, by width: (hidden, intermediate,
# query, key). Counted with saved-tensor hooks on the PyTorch backend; a test counts again.
KEPT = {
    ("float32", False): (16, 8, 8, 8),
    ("bfloat16", False): (8, 4, 4, 4),
    ("float32", True): (16, 16, 8, 8),
    ("bfloat16", True): (24, 10, 8, 4),  # adapters compute in float32 and keep their inputs in it
}
KEPT_ANYWAY = 8  # bytes for each token and block: the scales of its two norms
ADAPTED = 7  # linear layers of a block
GATHERED = 2  # blocks whose whole weights are on the device at once where they are sharded: one computes, one arrives
PATCHES = 4  # of an image, merged into one token
# What an allocator keeps of the memory that came and went, as a share of it: measured 0.4 to 0.8 with glibc's.
ALLOCATOR_SHARE = {"host": 0.5, "accelerator": 0.1}
LASTING = ("process", "weights", "reference", "optimizer", "critic", "critic optimizer", "engine")
# The names of the prediction, for people: phases of a step and parts as the table shows them. What each phase needs on
# the device is in `residency.NEEDS`; a critic has phases of its own, without the policy, which take what the policy's take.
PHASES = {"generate": "generate", "reward": "reward", "score": "logps", "update": "update", "checkpoint": "checkpoint"}
PARTS: dict[RoleName, str] = {
    "policy": "weights", "optimizer": "optimizer", "reference": "reference", "critic": "critic",
    "critic_optimizer": "critic optimizer", "engine": "engine", "kv_cache": "KV cache",
}  # fmt: skip
Parts = dict[str, int]


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Count the weights of LoRA adapters on every linear layer: A ``[rank, in]`` and B ``[out, rank]``."""
    return rank * shape.linear


def optimizer_bytes(trainable: int, dtype: str) -> int:
    """AdamW's two float32 moments, and float32 master weights where the weights are 16 bits wide."""
    return trainable * (8 if dtype == "float32" else 12)


def state_bytes(layout: DeviceLayout, trained: tuple[int, ...], dtype: str) -> int:
    """The optimizer state of one device; beside whole weights a share of it has float32 copies of its own."""
    return optimizer_bytes(layout.stepped(*trained), "bfloat16" if layout.whole else dtype)


def checkpoint_bytes(config: AnyConfig, shape: ModelShape, *, critic: bool) -> int:
    """A checkpoint on the disk: trained weights (adapters alone with LoRA) and optimizer state, of a critic as well."""
    model, adapters = config.model, adapter_parameters(shape, config.model.lora_rank)
    whole = shape.parameters * BYTES[model.dtype] + optimizer_bytes(sum(shape.trained), model.dtype)
    return (adapters * 4 + optimizer_bytes(adapters, "float32") if adapters else whole) + critic * whole


def kv_cache_bytes(shape: ModelShape, positions: int, dtype: str) -> int:
    """Keys and values of ``positions`` tokens in every layer."""
    return shape.layers * (shape.cached or 2 * shape.key) * positions * BYTES[dtype]


def activation_bytes(
    shape: ModelShape, tokens: int, dtype: str, *, lora_rank: int, recompute: bool, tensor: int = 1
) -> int:
    """The values that a forward pass keeps for the backward pass, and one block's gradients in the backward pass.

    With ``recompute`` a block keeps only its input, and one block at a time is computed again. Of ``tensor`` ranks each
    has its slice of the inner width and of the heads, and the stream between blocks in full.
    """
    by_width = KEPT[dtype, lora_rank > 0]
    widths = (shape.hidden, shape.intermediate // tensor, shape.query // tensor, shape.key // tensor)
    stored = sum(size * width for size, width in zip(by_width, widths, strict=True)) + KEPT_ANYWAY
    block = tokens * (stored + 4 * ADAPTED * lora_rank)
    if recompute:
        return shape.layers * tokens * shape.hidden * BYTES[dtype] + 2 * block
    return (shape.layers + 1) * block


def forward_bytes(shape: ModelShape, tokens: int, dtype: str, *, tensor: int = 1) -> int:
    """The values alive at once in a forward pass without gradient: one block's widest ones, and the logits of a chunk."""
    sliced = (3 * shape.intermediate + shape.query + 2 * shape.key) // tensor
    block = tokens * (3 * shape.hidden + sliced) * BYTES[dtype]
    return block + logits_bytes(shape, HEAD_CHUNK, dtype) // tensor


def logits_bytes(shape: ModelShape, positions: int, dtype: str) -> int:
    """Logits in the dtype of the weights, and twice in float32."""
    return positions * shape.vocabulary * (BYTES[dtype] + 8)


def head_bytes(shape: ModelShape, dtype: str, *, trained: bool) -> int:
    """The output head in the backward pass: the logits of a chunk, and V x E gradients in float32 and as stored."""
    gradient = shape.vocabulary * shape.hidden * (4 + BYTES[dtype]) if trained else 0
    return logits_bytes(shape, HEAD_CHUNK, dtype) + gradient


def vision_bytes(shape: ModelShape, tokens: int, dtype: str, *, trained: bool) -> int:
    """The vision tower over ``tokens`` image tokens: all its blocks where it is trained, else one block's values."""
    patches, widths = (
        PATCHES * tokens,
        (shape.vision_hidden, shape.vision_inner, shape.vision_hidden, shape.vision_hidden),
    )
    if not shape.vision:
        return 0
    if trained:
        stored = sum(size * width for size, width in zip(KEPT[dtype, False], widths, strict=True)) + KEPT_ANYWAY
        return (shape.vision_layers + 1) * patches * stored
    return patches * 3 * (shape.vision_hidden + shape.vision_inner) * BYTES[dtype]


def micro_batch_tokens(config: AnyConfig, ranks: int) -> int:
    """The most tokens computed at once in training: the budget, or a step if that is smaller, or a row if that is larger."""
    rows = -(-config.train.prompts_per_step // ranks)
    if isinstance(config, OfflineConfig):
        return max(config.data.max_tokens, min(config.train.tokens_per_micro_batch, 2 * rows * config.data.max_tokens))
    prompt, completion = config.data.max_prompt_tokens, config.rollout.max_tokens
    copies = config.rollout.group_size if config.model.layout == "plain" else 1
    step = rows * (copies * prompt + config.rollout.group_size * completion)
    return max(prompt + completion, min(config.train.tokens_per_micro_batch, step))


def phases(
    config: AnyConfig,
    shape: ModelShape,
    *,
    reference: bool,
    critic: bool = False,
    scorer: int = 0,
    layout: DeviceLayout | None = None,
) -> dict[str, Parts]:
    """Phase -> part -> bytes, from the second step on (when the optimizer has its state).

    Args:
        config: the run; one on a fixed dataset has no phase ``generate``.
        shape: its model.
        reference: whether the loss or the reward needs a reference policy.
        critic: whether a critic of the policy's size is trained too.
        scorer: bytes of the largest model that rewards compute with; they are loaded one at a time.
        layout: layout of the model on the devices; None: one device.
    """
    layout, model = layout or DeviceLayout(), config.model
    held = lasting(config, shape, layout, reference=reference, critic=critic)
    adapters = adapter_parameters(shape, model.lora_rank)
    kind = "float32" if adapters else model.dtype  # adapters are float32, whatever they adapt
    copied = layout.held(*((adapters,) if adapters else shape.trained)) * BYTES[kind]
    parts = {"load": loading_parts(config, shape, layout, held)}
    if isinstance(config, RunConfig):
        parts["generate"] = {**held, **generation_parts(config, shape, layout)}
        parts |= {"reward": {**held, "scoring model": scorer}} if scorer else {}
    if isinstance(config, RunConfig) or reference:
        parts["score"] = {**held, **scoring_parts(config, shape, layout)}
    parts["update"] = {**held, **update_parts(config, shape, layout)}
    parts["checkpoint"] = {**held, "copy of the weights": copied}
    return {phase: without_swapped(config, phase, held) for phase, held in parts.items()}


def loading_parts(config: AnyConfig, shape: ModelShape, layout: DeviceLayout, held: Parts) -> Parts:
    """The parts that meet while models are loaded: with shards, one full model at a time, before it is cut.

    The last one is the reference policy, at its first use: beside the engine, unless that is swapped out by then.
    """
    size = BYTES[config.model.dtype]
    parts = {"weights": held["weights"], "largest tensor": shape.largest * size // layout.tensor}
    if not layout.sharded:
        return parts
    swapped = isinstance(config, RunConfig) and config.swap is not None and "engine" in config.swap.roles
    engine = held["engine"] if held["reference"] and not swapped else 0
    return {**parts, **nonempty({"engine": engine}), "whole model": layout.used(*shape.split) * size}


def scoring_parts(config: AnyConfig, shape: ModelShape, layout: DeviceLayout) -> Parts:
    """The parts of a forward pass without gradient over a micro-batch."""
    model, tokens = config.model, micro_batch_tokens(config, layout.ranks)
    vision = vision_bytes(shape, min(tokens, image_tokens(config)), model.dtype, trained=False)
    gathered = gathered_bytes(shape, model, layout, training=False)
    activations = forward_bytes(shape, tokens, model.dtype, tensor=layout.tensor)
    return {"activations": activations, **nonempty({"gathered": gathered, "vision": vision})}


def update_parts(config: AnyConfig, shape: ModelShape, layout: DeviceLayout) -> Parts:
    """The parts of a forward and backward pass over a micro-batch, and the gradients."""
    model, tokens = config.model, micro_batch_tokens(config, layout.ranks)
    adapters = adapter_parameters(shape, model.lora_rank)
    trained = (adapters,) if adapters else shape.trained
    activations = activation_bytes(
        shape, tokens, model.dtype, lora_rank=model.lora_rank, recompute=model.recompute, tensor=layout.tensor
    )
    tower = not adapters and shape.vision_trained
    vision = vision_bytes(shape, min(tokens, image_tokens(config)), model.dtype, trained=tower)
    gathered = gathered_bytes(shape, model, layout, training=not adapters)
    gradients = 0 if offloaded(config) else layout.held(*trained) * BYTES["float32" if adapters else model.dtype]
    return {
        "gradients": gradients,
        "activations": activations,
        "head": head_bytes(shape, model.dtype, trained=not adapters) // layout.tensor,
        **nonempty({"gathered": gathered, "vision": vision}),
    }


def nonempty(parts: Mapping[str, int]) -> Parts:
    """The parts that are not empty."""
    return {part: size for part, size in parts.items() if size}


def lasting(config: AnyConfig, shape: ModelShape, layout: DeviceLayout, *, reference: bool, critic: bool) -> Parts:
    """The parts that stay from phase to phase."""
    model, online, size = config.model, isinstance(config, RunConfig), BYTES[config.model.dtype]
    adapters = adapter_parameters(shape, model.lora_rank)
    trained, kind = ((adapters,), "float32") if adapters else (shape.trained, model.dtype)
    weights = layout.held(*shape.split) * size
    parts = {
        "weights": weights + layout.held(adapters) * 4,
        "reference": weights if reference and not adapters else 0,
        "optimizer": state_bytes(layout, trained, kind),
        "engine": engine_weights(shape, layout, adapters=bool(adapters)) * size if online else 0,
    }
    if critic:
        parts["critic"] = weights
        parts["critic optimizer"] = state_bytes(layout, shape.split, model.dtype)
    if offloaded(config):
        parts.update(dict.fromkeys(("weights", "reference", "optimizer"), 0))
    return parts


def offloaded(config: AnyConfig) -> bool:
    """True where shards stay in host memory and only pass through the device."""
    return config.parallel is not None and config.parallel.offload


def engine_weights(shape: ModelShape, layout: DeviceLayout, *, adapters: bool) -> int:
    """Count the engine's weights besides the policy's.

    All where the policy's are sharded or cut otherwise; else those with merged adapters.
    """
    engine = layout.generating
    if layout.sharded or engine.tensor != layout.tensor:
        return engine.held(*shape.split)
    return engine.held(min(shape.adapted, shape.split[0])) if adapters else 0


def gathered_bytes(shape: ModelShape, model: ModelConfig, layout: DeviceLayout, *, training: bool) -> int:
    """Full weights that a device with shards gathers for a while.

    With ``fsdp`` a block that computes and one that arrives, then embeddings and head; else all of them. In training
    full gradients come on top, until they are summed: of a block, or with ``zero1`` of all.
    """
    if not layout.sharded:
        return 0
    everything, (dense, experts, whole) = layout.used(*shape.split), shape.split
    block = layout.used(dense - shape.embeddings, experts, whole) * layout.pipeline // shape.layers
    weights = GATHERED * block + shape.embeddings // layout.tensor if layout.strategy == "fsdp" else everything
    gradients = 0 if not training else everything if layout.strategy == "zero1" else block
    return (weights + gradients) * BYTES[model.dtype]


def image_tokens(config: AnyConfig) -> int:
    """The most image tokens computed at once, if every token of the prompts could be one; 0 without images."""
    if not isinstance(config, RunConfig) or config.data.images is None:
        return 0
    prompt, group = config.data.max_prompt_tokens, config.rollout.group_size * config.rollout.max_tokens
    return prompt * max(1, config.train.tokens_per_micro_batch // (prompt + group))


def without_swapped(config: AnyConfig, phase: str, parts: Parts) -> Parts:
    """The parts of a phase without those that `swap` has moved to the host."""
    if not isinstance(config, RunConfig) or config.swap is None or phase not in PHASES:
        return parts
    needed = NEEDS[PHASES[phase]]
    moved = {PARTS[role] for role in config.swap.roles if role not in needed}
    return {part: 0 if part in moved else size for part, size in parts.items()}


def generation_parts(config: RunConfig, shape: ModelShape, layout: DeviceLayout) -> Parts:
    """The engine's cache and working memory."""
    rollout, dtype, layout = config.rollout, config.model.dtype, layout.generating
    completions = -(-config.train.prompts_per_step // layout.ranks) * rollout.group_size
    slots = min(rollout.slots, completions)
    positions = slots * (config.data.max_prompt_tokens + rollout.max_tokens)
    prompts = -(-slots // rollout.group_size)
    prefill = max(config.data.max_prompt_tokens, min(PREFILL_TOKENS, prompts * config.data.max_prompt_tokens))
    split = layout.tensor * layout.pipeline
    images = image_tokens(config) and prefill
    return {
        "KV cache": kv_cache_bytes(shape, positions, dtype) // split,
        "logits": logits_bytes(shape, slots, dtype) // layout.tensor,
        "prefill": kv_cache_bytes(shape, prefill, dtype) // split
        + forward_bytes(shape, prefill, dtype, tensor=layout.tensor),
        **nonempty({"vision": vision_bytes(shape, images, dtype, trained=False)}),
    }


def allocator_bytes(parts: Mapping[str, int], place: Literal["host", "accelerator"]) -> int:
    """Bytes that the allocator holds beyond those in use."""
    passing = sum(size for part, size in parts.items() if part not in LASTING)
    return int(passing * ALLOCATOR_SHARE[place])


def peak(parts: Mapping[str, int]) -> int:
    """Total bytes of a phase."""
    return sum(parts.values())
