"""The weights of an architecture: Hugging Face name, shape and role of each, in the order of transformers' modules.

The experts of a layer are stacked in two tensors, named as transformers holds them; files hold one tensor per expert,
as published: ``file_parts`` maps one to the other. A test compares names and shapes with those of transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import ConfigError
from .architecture import Architecture, Config
from .value_head import is_head

Shape = tuple[int, ...]
CORRECTION, GATE_UP, DOWN = "e_score_correction_bias", "gate_up_proj", "down_proj"
INTERNVL_PATCHES_PER_TOKEN = 4
COLOURS = 3


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight.

    Attributes:
        name: its Hugging Face name, ``model.layers.3.self_attn.q_proj.weight``.
        shape: with stacked experts ``[experts, out, in]``, else ``[out, in]`` or ``[out]``.
        role: what it is, the same in every layer: ``q_proj``, ``experts.down_proj``, ``input_layernorm``, ``lm_head``,
            ``vision.fc1``; a projection's weight and bias have the same role.
    """

    name: str
    shape: Shape
    role: str

    @property
    def layer(self) -> int | None:
        """The decoder layer it belongs to, None for the embedding, the final norm, a head or a vision tower."""
        number = re.match(r"[\w.]+?\.layers\.(\d+)\.", self.name)
        return int(number[1]) if number else None


Weights = Iterator[Weight]


def weights(architecture: Architecture) -> tuple[Weight, ...]:
    """Every weight of the model; a tied head is absent, and any head of a headless model.

    Raises:
        ConfigError: a vision tower whose configuration lacks a size.
    """
    try:
        return tuple(_weights(architecture))
    except KeyError as error:
        raise ConfigError(f"config.json of the model lacks {error.args[0]}") from None


def weight_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Weight name -> shape."""
    return {weight.name: weight.shape for weight in weights(architecture)}


def parameter_count(architecture: Architecture) -> int:
    """Numbers in all weights, tied ones once."""
    return sum(math.prod(weight.shape) for weight in weights(architecture))


def linear_modules(architecture: Architecture) -> dict[str, Shape]:
    """Projections that can have a LoRA adapter: module -> ``(out, in)``, in the order of transformers' modules.

    With routed experts those of attention alone: peft takes the names of the feed-forward projections for the
    stacked experts.
    """
    suffix = "_proj.weight"
    blocks = (".self_attn.",) if architecture.experts else (".self_attn.", ".mlp.")
    return {
        weight.name.removesuffix(".weight"): weight.shape
        for weight in weights(architecture)
        if weight.name.endswith((suffix, "_proj_with_mqa.weight")) and any(block in weight.name for block in blocks)
    }


def file_parts(name: str, shape: Shape) -> list[tuple[str, Shape]]:
    """The tensors of a file, by name and shape, that make up one weight: itself, or those of its experts.

    For stacked gate and up projections: gate of expert 0, up of expert 0, gate of expert 1, ...
    """
    module, _, kind = name.rpartition(".experts.")
    if not module:
        return [(name, shape)]
    count, rows, columns = shape
    if kind == DOWN:
        return [(f"{module}.experts.{i}.down_proj.weight", (rows, columns)) for i in range(count)]
    half = (rows // 2, columns)
    return [(f"{module}.experts.{i}.{way}_proj.weight", half) for i in range(count) for way in ("gate", "up")]


def is_left_out(name: str, architecture: Architecture) -> bool:
    """Tell whether a file's tensor is known and not used: a tied head, layers for multi-token prediction.

    A headless model uses no head.
    """
    if name.startswith("model.layers."):
        past_the_end = int(name.split(".")[2]) >= architecture.layers
        return name.endswith("rotary_emb.inv_freq") or (architecture.further_layers and past_the_end)
    if architecture.headless and is_head(name):
        return True
    return name == "lm_head.weight" and (architecture.tied or architecture.headless)


# ---- language model


def _weights(model: Architecture) -> Weights:
    yield Weight(f"{model.body}.embed_tokens.weight", (model.vocabulary, model.hidden), "embed_tokens")
    for layer in range(model.layers):
        yield from _layer(model, layer)
    yield _norm(f"{model.body}.norm", model.hidden)
    if not model.headless:
        if model.labels:
            yield Weight("score.weight", (model.labels, model.hidden), "score")
        elif not model.tied:
            yield Weight("lm_head.weight", (model.vocabulary, model.hidden), "lm_head")
    if model.vision is not None:
        tower = _internvl_tower if model.family == "internvl" else _qwen_tower
        for weight in tower(model.vision.config, model.hidden):
            yield replace(weight, role=f"vision.{weight.role}")


def _layer(model: Architecture, layer: int) -> Weights:
    module = f"{model.body}.layers.{layer}"
    yield from (_latent_attention if model.latent else _attention)(model, f"{module}.self_attn")
    if model.experts and layer >= model.experts.first_layer:
        yield from _experts(model, f"{module}.mlp")
    else:
        yield from _feed_forward(model, f"{module}.mlp", model.inner)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if model.sandwich_norms:
        norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    for norm in norms:
        yield _norm(f"{module}.{norm}", model.hidden)


def _attention(model: Architecture, module: str) -> Weights:
    yield from _linear(f"{module}.q_proj", model.hidden, model.query_width, model.input_bias)
    yield from _linear(f"{module}.k_proj", model.hidden, model.key_width, model.input_bias)
    yield from _linear(f"{module}.v_proj", model.hidden, model.kv_heads * model.value_size, model.input_bias)
    yield from _linear(f"{module}.o_proj", model.heads * model.value_size, model.hidden, model.output_bias)
    if model.head_norms:
        yield _norm(f"{module}.q_norm", model.key_size)
        yield _norm(f"{module}.k_norm", model.key_size)


def _latent_attention(model: Architecture, module: str) -> Weights:
    assert model.latent is not None
    query_rank, rank = model.latent.query_rank, model.latent.key_value_rank
    if query_rank is None:
        yield from _linear(f"{module}.q_proj", model.hidden, model.query_width, False)
    else:
        yield from _linear(f"{module}.q_a_proj", model.hidden, query_rank, model.input_bias)
        yield _norm(f"{module}.q_a_layernorm", query_rank)
        yield from _linear(f"{module}.q_b_proj", query_rank, model.query_width, False)
    yield from _linear(f"{module}.kv_a_proj_with_mqa", model.hidden, rank + model.rotary.size, model.input_bias)
    yield _norm(f"{module}.kv_a_layernorm", rank)
    expanded = model.heads * (model.latent.plain_size + model.value_size)
    yield from _linear(f"{module}.kv_b_proj", rank, expanded, False)
    yield from _linear(f"{module}.o_proj", model.heads * model.value_size, model.hidden, model.output_bias)


def _experts(model: Architecture, module: str) -> Weights:
    """Routed experts, their gate, and the experts that every token passes."""
    sizes = model.experts
    assert sizes is not None
    gate_up, down = (sizes.count, 2 * sizes.inner, model.hidden), (sizes.count, model.hidden, sizes.inner)
    yield Weight(f"{module}.experts.{GATE_UP}", gate_up, f"experts.{GATE_UP}")
    yield Weight(f"{module}.experts.{DOWN}", down, f"experts.{DOWN}")
    yield Weight(f"{module}.gate.weight", (sizes.count, model.hidden), "gate")
    yield Weight(f"{module}.gate.{CORRECTION}", (sizes.count,), f"gate.{CORRECTION}")
    for weight in _feed_forward(model, f"{module}.shared_experts", sizes.shared):
        yield replace(weight, role=f"shared_experts.{weight.role}")


def _feed_forward(model: Architecture, module: str, inner: int) -> Weights:
    if model.fused_gate_up:
        yield from _linear(f"{module}.{GATE_UP}", model.hidden, 2 * inner, model.feed_forward_bias)
    else:
        yield from _linear(f"{module}.gate_proj", model.hidden, inner, model.feed_forward_bias)
        yield from _linear(f"{module}.up_proj", model.hidden, inner, model.feed_forward_bias)
    yield from _linear(f"{module}.{DOWN}", inner, model.hidden, model.feed_forward_bias)


def _linear(module: str, inputs: int, outputs: int, bias: bool) -> Weights:
    role = module.rpartition(".")[2]
    yield Weight(f"{module}.weight", (outputs, inputs), role)
    if bias:
        yield Weight(f"{module}.bias", (outputs,), role)


def _norm(module: str, size: int) -> Weight:
    return Weight(f"{module}.weight", (size,), module.rpartition(".")[2])


# ---- vision towers


def _qwen_tower(vision: Config, hidden: int) -> Weights:
    """Qwen2.5-VL's tower, and the merger of its patches into tokens of the language model's hidden size."""
    size, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = size * vision["spatial_merge_size"] ** 2
    tower = "model.visual"
    shape = (size, vision.get("in_channels", COLOURS), vision["temporal_patch_size"], patch, patch)
    yield Weight(f"{tower}.patch_embed.proj.weight", shape, "patch_embed")
    for layer in range(vision["depth"]):
        block = f"{tower}.blocks.{layer}"
        yield _norm(f"{block}.norm1", size)
        yield _norm(f"{block}.norm2", size)
        yield from _linear(f"{block}.attn.qkv", size, 3 * size, True)
        yield from _linear(f"{block}.attn.proj", size, size, True)
        for name in ("gate_proj", "up_proj"):
            yield from _linear(f"{block}.mlp.{name}", size, inner, True)
        yield from _linear(f"{block}.mlp.down_proj", inner, size, True)
    yield _norm(f"{tower}.merger.ln_q", size)
    yield from _linear(f"{tower}.merger.mlp.0", merged, merged, True)
    yield from _linear(f"{tower}.merger.mlp.2", merged, hidden, True)


def _internvl_tower(vision: Config, hidden: int) -> Weights:
    """InternViT, and the projector of its shuffled patches into tokens of the language model's hidden size."""
    size, inner = vision["hidden_size"], vision["intermediate_size"]
    patch, image = vision["patch_size"], vision["image_size"]
    places = (image[0] // patch[0]) * (image[1] // patch[1]) + 1
    tower = "model.vision_tower"
    yield Weight(f"{tower}.embeddings.cls_token", (1, 1, size), "cls_token")
    yield Weight(f"{tower}.embeddings.position_embeddings", (1, places, size), "position_embeddings")
    patches = f"{tower}.embeddings.patch_embeddings.projection"
    yield Weight(f"{patches}.weight", (size, COLOURS, *patch), "patch_embeddings")
    yield Weight(f"{patches}.bias", (size,), "patch_embeddings")
    for layer in range(vision["num_hidden_layers"]):
        yield from _internvl_block(vision, f"{tower}.encoder.layer.{layer}", size, inner)
    projector, shuffled = "model.multi_modal_projector", INTERNVL_PATCHES_PER_TOKEN * size
    yield from _layer_norm(f"{projector}.layer_norm", shuffled, bias=True)
    yield from _linear(f"{projector}.linear_1", shuffled, hidden, True)
    yield from _linear(f"{projector}.linear_2", hidden, hidden, True)


def _internvl_block(vision: Config, block: str, size: int, inner: int) -> Weights:
    for name in ("q_proj", "k_proj", "v_proj"):
        yield from _linear(f"{block}.attention.{name}", size, size, vision.get("attention_bias", False))
    yield from _linear(f"{block}.attention.projection_layer", size, size, True)
    if vision.get("use_qk_norm"):
        yield _norm(f"{block}.attention.q_norm", size)
        yield _norm(f"{block}.attention.k_norm", size)
    for scale in ("lambda_1", "lambda_2"):
        yield Weight(f"{block}.{scale}", (size,), scale)
    yield from _linear(f"{block}.mlp.fc1", size, inner, True)
    yield from _linear(f"{block}.mlp.fc2", inner, size, True)
    for norm in ("layernorm_before", "layernorm_after"):
        yield from _layer_norm(f"{block}.{norm}", size, bias=vision.get("norm_type", "layer_norm") == "layer_norm")


def _layer_norm(module: str, size: int, *, bias: bool) -> Weights:
    norm = _norm(module, size)
    yield norm
    if bias:
        yield replace(norm, name=f"{module}.bias")
