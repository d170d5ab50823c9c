"""The weights of an architecture: their Hugging Face names and shapes, in the order of transformers' modules.

The experts of a layer are stacked in two tensors, named as transformers holds them; files hold one tensor per expert,
as published: ``file_parts`` says which.
"""

from __future__ import annotations

from collections.abc import Iterator

from mindrlhf_grpo.model_files.value_head import is_head

from .architecture import Architecture

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]
CORRECTION, GATE_UP, DOWN = "e_score_correction_bias", "gate_up_proj", "down_proj"


def weight_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Every weight of the model by name; a tied head is absent, and any head of a headless model."""
    return dict(_weights(architecture))


def linear_modules(architecture: Architecture) -> dict[str, Shape]:
    """Projections that can have a LoRA adapter: module -> ``(out, in)``, in the order of transformers' modules.

    With routed experts those of attention alone: peft takes the names of the feed-forward projections for the
    stacked experts.
    """
    suffix = "_proj.weight"
    places = (".self_attn.",) if architecture.experts else (".self_attn.", ".mlp.")
    return {
        name.removesuffix(".weight"): shape
        for name, shape in _weights(architecture)
        if name.endswith((suffix, "_proj_with_mqa.weight")) and any(place in name for place in places)
    }


def file_parts(name: str, shape: Shape) -> list[tuple[str, Shape]]:
    """The tensors of a file, by name and shape, that make up one weight: itself, or those of its experts.

    For stacked gates and ways up: gate of expert 0, up of expert 0, gate of expert 1, ...
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
    """Whether a file's tensor is known and not used: a tied head, DeepSeek's layers for multi-token prediction.

    A headless model uses no head.
    """
    if name.startswith("model.layers."):
        past_the_end = int(name.split(".")[2]) >= architecture.layers
        return name.endswith("rotary_emb.inv_freq") or (architecture.family == "deepseek_v3" and past_the_end)
    if architecture.headless and is_head(name):
        return True
    return name == "lm_head.weight" and (architecture.tied or architecture.headless)


def _weights(model: Architecture) -> Shapes:
    yield "model.embed_tokens.weight", (model.vocabulary, model.hidden)
    for layer in range(model.layers):
        yield from _layer(model, layer)
    yield "model.norm.weight", (model.hidden,)
    if model.headless:
        return
    if model.labels:
        yield "score.weight", (model.labels, model.hidden)
    elif not model.tied:
        yield "lm_head.weight", (model.vocabulary, model.hidden)


def _layer(model: Architecture, layer: int) -> Shapes:
    module = f"model.layers.{layer}"
    yield from (_latent_attention if model.latent else _attention)(model, f"{module}.self_attn")
    if model.experts and layer >= model.experts.first_layer:
        yield from _experts(model, f"{module}.mlp")
    else:
        yield from _feed_forward(model, f"{module}.mlp", model.inner)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if model.sandwich_norms:
        norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    for norm in norms:
        yield f"{module}.{norm}.weight", (model.hidden,)


def _attention(model: Architecture, module: str) -> Shapes:
    queries, keys = model.heads * model.key_size, model.kv_heads * model.key_size
    yield from _linear(f"{module}.q_proj", model.hidden, queries, model.input_bias)
    yield from _linear(f"{module}.k_proj", model.hidden, keys, model.input_bias)
    yield from _linear(f"{module}.v_proj", model.hidden, model.kv_heads * model.value_size, model.input_bias)
    yield from _linear(f"{module}.o_proj", model.heads * model.value_size, model.hidden, model.output_bias)
    if model.head_norms:
        yield f"{module}.q_norm.weight", (model.key_size,)
        yield f"{module}.k_norm.weight", (model.key_size,)


def _latent_attention(model: Architecture, module: str) -> Shapes:
    assert model.latent is not None
    rank, queries = model.latent.query_rank, model.heads * model.key_size
    if rank is None:
        yield from _linear(f"{module}.q_proj", model.hidden, queries, False)
    else:
        yield from _linear(f"{module}.q_a_proj", model.hidden, rank, model.input_bias)
        yield f"{module}.q_a_layernorm.weight", (rank,)
        yield from _linear(f"{module}.q_b_proj", rank, queries, False)
    rank = model.latent.key_value_rank
    yield from _linear(f"{module}.kv_a_proj_with_mqa", model.hidden, rank + model.rotary.size, model.input_bias)
    yield f"{module}.kv_a_layernorm.weight", (rank,)
    expanded = model.heads * (model.latent.plain_size + model.value_size)
    yield from _linear(f"{module}.kv_b_proj", rank, expanded, False)
    yield from _linear(f"{module}.o_proj", model.heads * model.value_size, model.hidden, model.output_bias)


def _experts(model: Architecture, module: str) -> Shapes:
    sizes = model.experts
    assert sizes is not None
    yield f"{module}.experts.{GATE_UP}", (sizes.count, 2 * sizes.inner, model.hidden)
    yield f"{module}.experts.{DOWN}", (sizes.count, model.hidden, sizes.inner)
    yield f"{module}.gate.weight", (sizes.count, model.hidden)
    yield f"{module}.gate.{CORRECTION}", (sizes.count,)
    yield from _feed_forward(model, f"{module}.shared_experts", sizes.shared)


def _feed_forward(model: Architecture, module: str, inner: int) -> Shapes:
    if model.fused_gate_up:
        yield from _linear(f"{module}.gate_up_proj", model.hidden, 2 * inner, model.feed_forward_bias)
    else:
        yield from _linear(f"{module}.gate_proj", model.hidden, inner, model.feed_forward_bias)
        yield from _linear(f"{module}.up_proj", model.hidden, inner, model.feed_forward_bias)
    yield from _linear(f"{module}.down_proj", inner, model.hidden, model.feed_forward_bias)


def _linear(module: str, inputs: int, outputs: int, bias: bool) -> Shapes:
    yield f"{module}.weight", (outputs, inputs)
    if bias:
        yield f"{module}.bias", (outputs,)
