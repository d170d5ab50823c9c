"""The weights of an architecture: their Hugging Face names and shapes, in the order of transformers' modules.

The experts of a layer are stacked in two tensors, named as transformers holds them; files hold one tensor per expert,
as published. ``in_files`` says how one becomes the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from .architecture import Architecture

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]
CORRECTION = "e_score_correction_bias"


def weight_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Every weight of the model by name; a tied head is absent."""
    return dict(_weights(architecture))


def _weights(model: Architecture) -> Shapes:
    yield "model.embed_tokens.weight", (model.vocabulary, model.hidden)
    for layer in range(model.layers):
        yield from _layer(model, layer)
    yield "model.norm.weight", (model.hidden,)
    if model.labels:
        yield "score.weight", (model.labels, model.hidden)
    elif not model.tied:
        yield "lm_head.weight", (model.vocabulary, model.hidden)


def _layer(model: Architecture, layer: int) -> Shapes:
    module = f"model.layers.{layer}"
    yield from _attention(model, f"{module}.self_attn")
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
