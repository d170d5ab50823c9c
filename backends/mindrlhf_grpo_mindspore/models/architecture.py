"""What a model is made of, read from its ``config.json``: one record from which the same cells build every family.

A family that is not here is refused before any weights are read. Values that a file leaves out are those of the
family's configuration class in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mindrlhf_grpo.errors import ConfigError

from .rotary import Rotary, read_rotary

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSizes:
    """Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434): sizes of what is compressed."""

    query_rank: int | None
    """Of the compressed query; None: queries are projected at once."""
    key_value_rank: int
    plain_size: int
    """Part of a head's query and key without rotation; the rest is ``rotary.size``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSizes:
    """Mixture of experts with sigmoid routing (DeepSeek-V3, https://arxiv.org/abs/2412.19437)."""

    count: int
    chosen: int
    groups: int
    chosen_groups: int
    inner: int
    """Of one routed expert."""
    shared: int
    """Inner size of the shared experts together."""
    normalised: bool
    scale: float
    first_layer: int
    """Layers before it have one dense feed-forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes and switches of a decoder.

    ``key_size`` is that of a head's queries and keys, ``value_size`` of its values; attention mixes ``kv_heads`` keys.
    """

    family: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    attention_scale: float
    norm_eps: float
    rotary: Rotary
    tied: bool = False
    input_bias: bool = False
    """Biases of the query, key and value projections (with latent attention: of the two that compress)."""
    output_bias: bool = False
    feed_forward_bias: bool = False
    head_norms: bool = False
    """Queries and keys are normed per head."""
    sandwich_norms: bool = False
    """The results of attention and feed-forward are normed too, before they are added."""
    fused_gate_up: bool = False
    latent: LatentSizes | None = None
    experts: ExpertSizes | None = None
    labels: int = 0
    """Outputs of the score head of a sequence classifier, which has no vocabulary head; 0: a causal LM."""
    headless: bool = False
    """The body alone, whatever head the files hold besides."""
    config: Config = field(default_factory=dict, compare=False, repr=False)
    """The ``config.json`` it was read from."""


def read_architecture(config: Config) -> Architecture:
    """The architecture of a model from its ``config.json``.

    Raises:
        ConfigError: a family or variant that is not supported; names what is.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"the mindspore backend has no model family {family!r} (model_type in config.json); "
            f"supported: {', '.join(FAMILIES)}; the torch backend trains every causal LM of transformers"
        )
    _refuse_variants(config)
    return FAMILIES[family](config)


def _llama(config: Config) -> Architecture:
    attention_bias = bool(config.get("attention_bias", False))
    return _decoder(
        config,
        input_bias=attention_bias,
        output_bias=attention_bias,
        feed_forward_bias=bool(config.get("mlp_bias", False)),
    )


def _qwen2(config: Config) -> Architecture:
    return _decoder(config, input_bias=True)


def _qwen3(config: Config) -> Architecture:
    attention_bias = bool(config.get("attention_bias", False))
    return _decoder(
        config, head_size=config.get("head_dim") or 128, input_bias=attention_bias, output_bias=attention_bias,
        head_norms=True,
    )  # fmt: skip


def _glm(config: Config) -> Architecture:
    """GLM-4-9B (2024)."""
    return _decoder(
        config, head_size=config.get("head_dim") or 128, norm_eps=config.get("rms_norm_eps", 1.5625e-7),
        input_bias=bool(config.get("attention_bias", True)), fused_gate_up=True, rotated_part=0.5, interleaved=True,
    )  # fmt: skip


def _glm4(config: Config) -> Architecture:
    """GLM-4-0414: the same with more norms."""
    return replace(_glm(config), sandwich_norms=True)


def _deepseek_v3(config: Config) -> Architecture:
    for key, only in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        if config.get(key, only) != only:
            raise ConfigError(f"config.json of the model: {key} is {config[key]!r}; the mindspore backend has {only!r}")
    plain, rotated = config.get("qk_nope_head_dim", 128), config.get("qk_rope_head_dim", 64)
    common = _decoder(
        config, head_size=rotated, interleaved=config.get("rope_interleave", True),
        input_bias=bool(config.get("attention_bias")), output_bias=bool(config.get("attention_bias")),
    )  # fmt: skip
    return replace(
        common,
        kv_heads=common.heads,
        key_size=plain + rotated,
        value_size=config.get("v_head_dim", 128),
        attention_scale=(plain + rotated) ** -0.5 * common.rotary.score_factor,
        latent=LatentSizes(
            query_rank=config.get("q_lora_rank", 1536), key_value_rank=config.get("kv_lora_rank", 512), plain_size=plain
        ),
        experts=_experts(config),
    )


def _experts(config: Config) -> ExpertSizes:
    inner = config.get("moe_intermediate_size", 2048)
    return ExpertSizes(
        count=config.get("n_routed_experts", 256),
        chosen=config.get("num_experts_per_tok", 8),
        groups=config.get("n_group", 8),
        chosen_groups=config.get("topk_group", 4),
        inner=inner,
        shared=inner * config.get("n_shared_experts", 1),
        normalised=bool(config.get("norm_topk_prob", True)),
        scale=float(config.get("routed_scaling_factor", 2.5)),
        first_layer=config.get("first_k_dense_replace", 3),
    )


FAMILIES: dict[str, Callable[[Config], Architecture]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "glm": _glm,
    "glm4": _glm4,
    "deepseek_v3": _deepseek_v3,
}


def _decoder(
    config: Config,
    *,
    head_size: int | None = None,
    norm_eps: float | None = None,
    rotated_part: float = 1.0,
    interleaved: bool = False,
    input_bias: bool = False,
    output_bias: bool = False,
    feed_forward_bias: bool = False,
    head_norms: bool = False,
    sandwich_norms: bool = False,
    fused_gate_up: bool = False,
) -> Architecture:
    """A decoder with grouped-query attention."""
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    size = head_size or config.get("head_dim") or hidden // heads
    return Architecture(
        family=config["model_type"],
        vocabulary=_number(config, "vocab_size"),
        hidden=hidden,
        inner=_number(config, "intermediate_size"),
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        key_size=size,
        value_size=size,
        attention_scale=size**-0.5,
        norm_eps=float(norm_eps or config.get("rms_norm_eps", 1e-6)),
        rotary=read_rotary(config, size, rotated_part=rotated_part, interleaved=interleaved),
        tied=bool(config.get("tie_word_embeddings", False)),
        input_bias=input_bias,
        output_bias=output_bias,
        feed_forward_bias=feed_forward_bias,
        head_norms=head_norms,
        sandwich_norms=sandwich_norms,
        fused_gate_up=fused_gate_up,
        labels=_labels(config),
        config=dict(config),
    )


def _number(config: Config, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value <= 0:
        raise ConfigError(f"config.json of the model: {key} is {value!r}; accepted: a positive integer")
    return value


def _labels(config: Config) -> int:
    """Outputs of a sequence classifier; 0 for a causal LM."""
    name = next(iter(config.get("architectures") or ()), "")
    if not name.endswith("ForSequenceClassification"):
        return 0
    return len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))


def _refuse_variants(config: Config) -> None:
    """Settings that change the computation and have no cell here."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(f"config.json of the model: hidden_act is {activation!r}; the mindspore backend has silu")
    if config.get("use_sliding_window"):
        raise ConfigError("config.json of the model: use_sliding_window; the mindspore backend has full attention only")
    if config.get("quantization_config"):
        raise ConfigError(
            "config.json of the model: quantization_config; accepted: weights in float32, float16, bfloat16"
        )
