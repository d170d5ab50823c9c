"""Peak memory of a run's phases, predicted from sizes alone: nothing is loaded.

Every figure is bytes on the device that computes, for one rank. The parts of a phase add up to its peak.
Legend: V vocabulary, E hidden size, T tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .config import RunConfig
from .model_files import DTYPE_BYTES, TensorInfo

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
# What an allocator keeps of the memory that came and went, as a share of it: measured 0.4 to 0.8 with glibc's.
ALLOCATOR_SHARE = {"host": 0.5, "accelerator": 0.1}
LASTING = ("process", "weights", "reference", "optimizer", "critic", "engine")
Parts = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that memory depends on.

    Attributes:
        parameters: all weights, tied ones once.
        query, key: heads times head size, of queries and of keys (or values).
        largest: elements of the largest tensor.
        linear: (in + out) summed over the linear layers that all-linear LoRA adapts.
        adapted: weights of those layers.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocabulary: int
    largest: int
    linear: int
    adapted: int


def shape_of(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> ModelShape:
    """Sizes from a model's config.json and the headers of its weights.

    Raises:
        KeyError: config.json does not name a width that is needed.
    """
    text = config.get("text_config", config)
    heads = text["num_attention_heads"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    repeated = {"lm_head.weight"} if tied and any("embed_tokens" in name for name in tensors) else set()
    sizes = {name: info.size for name, info in tensors.items() if name not in repeated}
    adapted = [info.shape for name, info in tensors.items() if _is_linear(name, info)]
    return ModelShape(
        parameters=sum(sizes.values()),
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        intermediate=text.get("intermediate_size") or 4 * text["hidden_size"],
        query=heads * head,
        key=(text.get("num_key_value_heads") or heads) * head,
        vocabulary=text["vocab_size"],
        largest=max(sizes.values(), default=0),
        linear=sum(sum(shape) for shape in adapted),
        adapted=sum(shape[0] * shape[1] for shape in adapted),
    )


def _is_linear(name: str, info: TensorInfo) -> bool:
    """Whether all-linear LoRA adapts this weight: every matrix but embeddings and the output projection."""
    return len(info.shape) == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head", "norm"))


def stored_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    """Bytes of the weights as they lie on disk."""
    return sum(info.size * DTYPE_BYTES.get(info.dtype, 4) for info in tensors.values())


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Weights of LoRA adapters on every linear layer: A ``[rank, in]`` and B ``[out, rank]`` each."""
    return rank * shape.linear


def optimizer_bytes(trainable: int, dtype: str) -> int:
    """AdamW's two float32 moments, and float32 master weights where the weights are 16 bits wide."""
    return trainable * (8 if dtype == "float32" else 12)


def kv_cache_bytes(shape: ModelShape, positions: int, dtype: str) -> int:
    """Keys and values of ``positions`` tokens in every layer."""
    return 2 * shape.layers * shape.key * positions * BYTES[dtype]


def activation_bytes(shape: ModelShape, tokens: int, dtype: str, *, lora_rank: int, recompute: bool) -> int:
    """What a forward pass keeps for the backward pass, and one block's gradients on the way back.

    With ``recompute`` a block keeps its input alone, and one block at a time is computed again.
    """
    by_width = KEPT[dtype, lora_rank > 0]
    widths = (shape.hidden, shape.intermediate, shape.query, shape.key)
    kept = sum(size * width for size, width in zip(by_width, widths, strict=True)) + KEPT_ANYWAY
    block = tokens * (kept + 4 * ADAPTED * lora_rank)
    if recompute:
        return shape.layers * tokens * shape.hidden * BYTES[dtype] + 2 * block
    return (shape.layers + 1) * block


def forward_bytes(shape: ModelShape, tokens: int, dtype: str) -> int:
    """What a forward pass without gradient holds at once: one block's widest values, and the logits of a chunk."""
    block = tokens * (3 * shape.hidden + 3 * shape.intermediate + shape.query + 2 * shape.key) * BYTES[dtype]
    return block + logits_bytes(shape, HEAD_CHUNK, dtype)


def logits_bytes(shape: ModelShape, positions: int, dtype: str) -> int:
    """Logits in the type of the weights, and twice in float32."""
    return positions * shape.vocabulary * (BYTES[dtype] + 8)


def head_bytes(shape: ModelShape, dtype: str, *, trained: bool) -> int:
    """The output head in the backward pass: the logits of a chunk, and V x E gradients in float32 and as stored."""
    gradient = shape.vocabulary * shape.hidden * (4 + BYTES[dtype]) if trained else 0
    return logits_bytes(shape, HEAD_CHUNK, dtype) + gradient


def micro_batch_tokens(config: RunConfig, ranks: int) -> int:
    """The most tokens computed at once in training: the budget, a whole step if that is less, one row if more."""
    prompt, completion = config.data.max_prompt_tokens, config.rollout.max_tokens
    prompts = -(-config.train.prompts_per_step // ranks)
    copies = config.rollout.group_size if config.model.layout == "plain" else 1
    step = prompts * (copies * prompt + config.rollout.group_size * completion)
    return max(prompt + completion, min(config.train.tokens_per_micro_batch, step))


def phases(
    config: RunConfig, shape: ModelShape, *, reference: bool, critic: bool = False, ranks: int = 1
) -> dict[str, Parts]:
    """Phase -> part -> bytes, for the second step on (from then the optimizer's state is there).

    Args:
        config: the run.
        shape: its model.
        reference: whether the loss or reward needs a reference.
        critic: whether a critic of the policy's size is trained beside it.
        ranks: processes that share a step's prompts; each holds everything else itself.
    """
    model = config.model
    adapters = adapter_parameters(shape, model.lora_rank)
    trainable = adapters or shape.parameters
    kind = "float32" if adapters else model.dtype  # adapters are float32, whatever they adapt
    weights = shape.parameters * BYTES[model.dtype]
    tokens = micro_batch_tokens(config, ranks)
    held = {
        "weights": weights + adapters * 4,
        "reference": weights if reference and not adapters else 0,
        "optimizer": optimizer_bytes(trainable, kind),
        "engine": shape.adapted * BYTES[model.dtype] if adapters else 0,  # merged; else it shares the weights
    }
    if critic:
        held["critic"] = weights + optimizer_bytes(shape.parameters, model.dtype)
    return {
        "load": {"weights": held["weights"], "largest tensor": shape.largest * BYTES[model.dtype]},
        "generate": {**held, **generation_parts(config, shape, ranks)},
        "score": {**held, "activations": forward_bytes(shape, tokens, model.dtype)},
        "update": {
            **held,
            "gradients": trainable * BYTES[kind],
            "activations": activation_bytes(
                shape, tokens, model.dtype, lora_rank=model.lora_rank, recompute=model.recompute
            ),
            "head": head_bytes(shape, model.dtype, trained=not adapters),
        },
        "checkpoint": {**held, "copy of the weights": trainable * BYTES[kind]},
    }


def generation_parts(config: RunConfig, shape: ModelShape, ranks: int) -> Parts:
    """The engine's cache and working memory."""
    rollout, dtype = config.rollout, config.model.dtype
    completions = -(-config.train.prompts_per_step // ranks) * rollout.group_size
    slots = min(rollout.slots, completions)
    positions = slots * (config.data.max_prompt_tokens + rollout.max_tokens)
    prompts = -(-slots // rollout.group_size)
    prefill = max(config.data.max_prompt_tokens, min(PREFILL_TOKENS, prompts * config.data.max_prompt_tokens))
    return {
        "KV cache": kv_cache_bytes(shape, positions, dtype),
        "logits": logits_bytes(shape, slots, dtype),
        "prefill": kv_cache_bytes(shape, prefill, dtype) + forward_bytes(shape, prefill, dtype),
    }


def allocator_bytes(parts: Mapping[str, int], place: Literal["host", "accelerator"]) -> int:
    """What the allocator holds beyond what is in use."""
    passing = sum(size for part, size in parts.items() if part not in LASTING)
    return int(passing * ALLOCATOR_SHARE[place])


def peak(parts: Mapping[str, int]) -> int:
    """Bytes of a phase."""
    return sum(parts.values())
