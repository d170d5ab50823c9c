"""Names and shapes of a model's weights from its config.json alone: what the headers of its files would say.

Names are those of transformers' modules; the experts of a layer are one tensor. Sizes follow
https://arxiv.org/abs/2302.13971 (Llama), https://arxiv.org/abs/2412.15115 (Qwen2.5), https://arxiv.org/abs/2412.19437
(DeepSeek-V3), https://arxiv.org/abs/2406.12793 (GLM-4), https://arxiv.org/abs/2502.13923 (Qwen2.5-VL) and
https://arxiv.org/abs/2504.10479 (InternVL3); a test holds them against transformers' own.
Legend: E hidden size, I inner size of the feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError

Config = Mapping[str, Any]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

BIASED_INPUTS = ("qwen2", "qwen2_5_vl", "qwen2_5_vl_text")  # whatever config.json says
BIASED_OUTPUT = ("llama", "qwen3", "mistral")  # attention_bias is for the output projection too
FUSED_GATE = ("glm", "glm4")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "glm", "glm4", "deepseek_v3", "qwen2_5_vl", "internvl")
VISION = ("visual", "vision_tower", "multi_modal_projector")  # parts of names, for what reads images


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Weight name -> shape, each tied weight once.

    Raises:
        ConfigError: a model family whose weights are not known here, or a size that config.json lacks.
    """
    try:
        return dict(_weights(config))
    except KeyError as error:
        raise ConfigError(f"config.json of the model lacks {error.args[0]}") from None


def text_part(config: Config) -> Config:
    """The part of config.json that describes the language model."""
    text: Config = config.get("text_config") or config
    return text


def _weights(config: Config) -> Shapes:
    family, text = config.get("model_type"), text_part(config)
    if family not in FAMILIES or text.get("model_type", family) not in (*FAMILIES, "qwen2_5_vl_text"):
        raise ConfigError(
            f"the weights of model family {text.get('model_type', family)!r} are not known without their files; "
            f"known: {', '.join(FAMILIES)}"
        )
    body = "model.language_model." if config.get("vision_config") else "model."
    hidden, vocabulary = text["hidden_size"], text["vocab_size"]
    yield f"{body}embed_tokens.weight", (vocabulary, hidden)
    for layer in range(text["num_hidden_layers"]):
        for name, shape in _block(text, layer):
            yield f"{body}layers.{layer}.{name}", shape
    yield f"{body}norm.weight", (hidden,)
    if not config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)):
        yield "lm_head.weight", (vocabulary, hidden)
    if config.get("vision_config"):
        yield from (_internvl if family == "internvl" else _qwen_visual)(config["vision_config"], hidden)


# ---- language model


def _block(text: Config, layer: int) -> Shapes:
    """One decoder layer."""
    hidden = text["hidden_size"]
    attention = _latent_attention if text.get("kv_lora_rank") else _attention
    yield from (("self_attn." + name, shape) for name, shape in attention(text))
    dense = not text.get("n_routed_experts") or layer < text.get("first_k_dense_replace", 0)
    feed_forward = _feed_forward(text, text["intermediate_size"]) if dense else _experts(text)
    yield from (("mlp." + name, shape) for name, shape in feed_forward)
    sandwich = ("post_self_attn_layernorm", "post_mlp_layernorm") if text.get("model_type") == "glm4" else ()
    for norm in ("input_layernorm", "post_attention_layernorm", *sandwich):
        yield f"{norm}.weight", (hidden,)


def _attention(text: Config) -> Shapes:
    family, hidden, heads = text.get("model_type"), text["hidden_size"], text["num_attention_heads"]
    size = text.get("head_dim") or hidden // heads
    keys = (text.get("num_key_value_heads") or heads) * size
    biased = family in BIASED_INPUTS or text.get("attention_bias", False)
    for name, out in (("q_proj", heads * size), ("k_proj", keys), ("v_proj", keys)):
        yield f"{name}.weight", (out, hidden)
        if biased:
            yield f"{name}.bias", (out,)
    yield "o_proj.weight", (hidden, heads * size)
    if biased and family in BIASED_OUTPUT:
        yield "o_proj.bias", (hidden,)
    if family == "qwen3":
        yield "q_norm.weight", (size,)
        yield "k_norm.weight", (size,)


def _latent_attention(text: Config) -> Shapes:
    """Multi-head latent attention: keys, values and queries are expanded from compressed ones."""
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    plain, rotated, value = text["qk_nope_head_dim"], text["qk_rope_head_dim"], text["v_head_dim"]
    rank, queries = text["kv_lora_rank"], text.get("q_lora_rank")
    if queries:
        yield "q_a_proj.weight", (queries, hidden)
        yield "q_a_layernorm.weight", (queries,)
        yield "q_b_proj.weight", (heads * (plain + rotated), queries)
    else:
        yield "q_proj.weight", (heads * (plain + rotated), hidden)
    yield "kv_a_proj_with_mqa.weight", (rank + rotated, hidden)
    yield "kv_a_layernorm.weight", (rank,)
    yield "kv_b_proj.weight", (heads * (plain + value), rank)
    yield "o_proj.weight", (hidden, heads * value)


def _feed_forward(text: Config, inner: int) -> Shapes:
    hidden = text["hidden_size"]
    if text.get("model_type") in FUSED_GATE:
        yield "gate_up_proj.weight", (2 * inner, hidden)
    else:
        yield "gate_proj.weight", (inner, hidden)
        yield "up_proj.weight", (inner, hidden)
    yield "down_proj.weight", (hidden, inner)


def _experts(text: Config) -> Shapes:
    """Routed experts, their gate, and the experts that every token passes."""
    hidden, inner, count = text["hidden_size"], text["moe_intermediate_size"], text["n_routed_experts"]
    yield "gate.weight", (count, hidden)
    yield "gate.e_score_correction_bias", (count,)
    yield "experts.gate_up_proj", (count, 2 * inner, hidden)
    yield "experts.down_proj", (count, hidden, inner)
    shared = inner * text.get("n_shared_experts", 0)
    yield from (("shared_experts." + name, shape) for name, shape in _feed_forward(text, shared) if shared)


# ---- vision


def _linear(name: str, out: int, into: int, *, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)


def _qwen_visual(vision: Config, hidden: int) -> Shapes:
    """Qwen2.5-VL's tower, and what merges its patches into tokens of size E."""
    size, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = size * vision["spatial_merge_size"] ** 2
    tower = "model.visual."
    yield f"{tower}patch_embed.proj.weight", (size, vision.get("in_channels", 3), vision["temporal_patch_size"], patch, patch)  # fmt: skip
    for layer in range(vision["depth"]):
        block = f"{tower}blocks.{layer}."
        yield f"{block}norm1.weight", (size,)
        yield f"{block}norm2.weight", (size,)
        yield from _linear(f"{block}attn.qkv", 3 * size, size)
        yield from _linear(f"{block}attn.proj", size, size)
        for name in ("gate_proj", "up_proj"):
            yield from _linear(f"{block}mlp.{name}", inner, size)
        yield from _linear(f"{block}mlp.down_proj", size, inner)
    yield f"{tower}merger.ln_q.weight", (size,)
    yield from _linear(f"{tower}merger.mlp.0", merged, merged)
    yield from _linear(f"{tower}merger.mlp.2", hidden, merged)


def _internvl(vision: Config, hidden: int) -> Shapes:
    """InternViT, and the projector of its shuffled patches into tokens of size E."""
    size, inner = vision["hidden_size"], vision["intermediate_size"]
    patch, image = vision["patch_size"], vision["image_size"]
    places = (image[0] // patch[0]) * (image[1] // patch[1]) + 1
    with_bias = vision.get("norm_type", "layer_norm") == "layer_norm"
    tower = "model.vision_tower."
    yield f"{tower}embeddings.cls_token", (1, 1, size)
    yield f"{tower}embeddings.position_embeddings", (1, places, size)
    yield f"{tower}embeddings.patch_embeddings.projection.weight", (size, 3, *patch)
    yield f"{tower}embeddings.patch_embeddings.projection.bias", (size,)
    for layer in range(vision["num_hidden_layers"]):
        block = f"{tower}encoder.layer.{layer}."
        for name in ("q_proj", "k_proj", "v_proj"):
            yield from _linear(f"{block}attention.{name}", size, size, bias=vision.get("attention_bias", False))
        yield from _linear(f"{block}attention.projection_layer", size, size)
        if vision.get("use_qk_norm"):
            yield f"{block}attention.q_norm.weight", (size,)
            yield f"{block}attention.k_norm.weight", (size,)
        yield f"{block}lambda_1", (size,)
        yield f"{block}lambda_2", (size,)
        yield from _linear(f"{block}mlp.fc1", inner, size)
        yield from _linear(f"{block}mlp.fc2", size, inner)
        for norm in ("layernorm_before", "layernorm_after"):
            yield f"{block}{norm}.weight", (size,)
            if with_bias:
                yield f"{block}{norm}.bias", (size,)
    projector, shuffled = "model.multi_modal_projector.", 4 * size
    yield f"{projector}layer_norm.weight", (shuffled,)
    yield f"{projector}layer_norm.bias", (shuffled,)
    yield from _linear(f"{projector}linear_1", hidden, shuffled)
    yield from _linear(f"{projector}linear_2", hidden, hidden)
