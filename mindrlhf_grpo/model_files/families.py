"""Model families: one function each, from ``config.json`` to an ``Architecture``.

A new Llama-like family is one more function here (``docs/extend/add_a_model.md``). Values that a ``config.json``
leaves out are those of the family's configuration class in transformers. Sources: https://arxiv.org/abs/2302.13971
(Llama), https://arxiv.org/abs/2310.06825 (Mistral), https://arxiv.org/abs/2412.15115 (Qwen2.5),
https://arxiv.org/abs/2505.09388 (Qwen3), https://arxiv.org/abs/2406.12793 (GLM-4), https://arxiv.org/abs/2412.19437
(DeepSeek-V3), https://arxiv.org/abs/2502.13923 (Qwen2.5-VL), https://arxiv.org/abs/2504.10479 (InternVL3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..errors import ConfigError
from .architecture import Architecture, Config, ExpertSizes, LatentSizes, Variant, VisionTower
from .rotary import SCALINGS, read_rotary

Reader = Callable[[Config], Architecture]


@dataclass(frozen=True, slots=True)
class Family:
    """The reader of a ``model_type``; ``images``: its models read images."""

    read: Reader
    images: bool = False


FAMILIES: dict[str, Family] = {}


def family(name: str, *, images: bool = False) -> Callable[[Reader], Reader]:
    """Register a function as the reader of a ``model_type``."""

    def register(read: Reader) -> Reader:
        FAMILIES[name] = Family(read, images)
        return read

    return register


class UnknownFamily(ConfigError):
    """A ``model_type`` that no function here reads."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"model family {name!r} (model_type in config.json) is not known; known: {', '.join(FAMILIES)}"
        )
        self.name = name


def read_architecture(config: Config) -> Architecture:
    """The architecture of a model from its ``config.json``.

    Raises:
        UnknownFamily: no function reads this family.
        ConfigError: a size is missing or wrong.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        raise UnknownFamily(name)
    return _read(FAMILIES[name].read, config)


def nearest_architecture(config: Config) -> Architecture:
    """The architecture of a model; of an unknown family, that of a Llama-like decoder of its sizes.

    It is good enough to estimate memory, where the shapes of the weights are read from files.

    Raises:
        ConfigError: ``config.json`` lacks a size.
    """
    try:
        return read_architecture(config)
    except UnknownFamily:
        return _read(_llama_like, config)


def _read(reader: Reader, config: Config) -> Architecture:
    try:
        return reader(config)
    except KeyError as error:
        raise ConfigError(f"config.json of the model lacks {error.args[0]}") from None


# ---- language models


@family("llama")
def _llama(config: Config) -> Architecture:
    attention_bias = bool(config.get("attention_bias", False))
    return decoder(
        config,
        input_bias=attention_bias,
        output_bias=attention_bias,
        feed_forward_bias=bool(config.get("mlp_bias", False)),
    )


@family("qwen2")
def _qwen2(config: Config) -> Architecture:
    return decoder(config, input_bias=True)


@family("qwen3")
def _qwen3(config: Config) -> Architecture:
    attention_bias = bool(config.get("attention_bias", False))
    return decoder(
        config,
        head_size=config.get("head_dim") or 128,
        input_bias=attention_bias,
        output_bias=attention_bias,
        head_norms=True,
    )


@family("glm")
def _glm(config: Config) -> Architecture:
    """GLM-4-9B (2024)."""
    return decoder(
        config,
        head_size=config.get("head_dim") or 128,
        norm_eps=config.get("rms_norm_eps", 1.5625e-7),
        input_bias=bool(config.get("attention_bias", True)),
        fused_gate_up=True,
        rotated_part=0.5,
        interleaved=True,
    )


@family("glm4")
def _glm4(config: Config) -> Architecture:
    """GLM-4-0414: the same with more norms."""
    return replace(_glm(config), sandwich_norms=True)


@family("deepseek_v3")
def _deepseek_v3(config: Config) -> Architecture:
    bias = bool(config.get("attention_bias"))
    common = decoder(
        config,
        head_size=config.get("qk_rope_head_dim", 64),
        interleaved=config.get("rope_interleave", True),
        input_bias=bias,
        output_bias=bias,
    )
    routing = (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1))
    variants = [
        Variant(f"{key} is {config[key]!r}", repr(only)) for key, only in routing if config.get(key, only) != only
    ]
    return replace(
        _with_latent_attention(common, config),
        experts=_deepseek_experts(config),
        further_layers=True,
        variants=(*common.variants, *variants),
    )


def _with_latent_attention(common: Architecture, config: Config) -> Architecture:
    plain, rotated = config.get("qk_nope_head_dim", 128), config.get("qk_rope_head_dim", 64)
    return replace(
        common,
        kv_heads=common.heads,
        key_size=plain + rotated,
        value_size=config.get("v_head_dim", 128),
        attention_scale=(plain + rotated) ** -0.5 * common.rotary.score_factor,
        latent=LatentSizes(
            query_rank=config.get("q_lora_rank", 1536), key_value_rank=config.get("kv_lora_rank", 512), plain_size=plain
        ),
    )


def _deepseek_experts(config: Config) -> ExpertSizes:
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


@family("mistral")
def _mistral(config: Config) -> Architecture:
    window = config.get("sliding_window", 4096)
    variants = (Variant(f"sliding_window is {window}", "full attention only (null)"),) if window else ()
    return decoder(config, variants=variants)


@family("seed_oss")
def _seed_oss(config: Config) -> Architecture:
    return decoder(
        config,
        head_size=config.get("head_dim", 128),
        input_bias=bool(config.get("attention_bias", True)),
        output_bias=bool(config.get("attention_out_bias", False)),
        feed_forward_bias=bool(config.get("mlp_bias", False)),
    )


# ---- models that read images


@family("qwen2_5_vl", images=True)
def _qwen2_5_vl(config: Config) -> Architecture:
    """The language model's sizes are in ``text_config``, or in older files beside ``vision_config``."""
    text = {**text_part(config), "model_type": "qwen2"}
    return _with_vision(_qwen2(text), config)


@family("internvl", images=True)
def _internvl(config: Config) -> Architecture:
    """InternVL3: the language model may be of any family."""
    return _with_vision(read_architecture(config["text_config"]), config)


def _llama_like(config: Config) -> Architecture:
    """A decoder of the sizes that most families call by the same names; its positions are not described."""
    text = text_part(config)
    usual = {"model_type": None, "intermediate_size": 4 * _size(text, "hidden_size"), "n_shared_experts": 0}
    text = {**usual, **text, "rope_parameters": None, "rope_scaling": None}
    language = decoder(text)
    if text.get("kv_lora_rank"):
        language = _with_latent_attention(language, text)
    if text.get("n_routed_experts"):
        language = replace(language, experts=_deepseek_experts(text))
    return _with_vision(language, config)


def _with_vision(language: Architecture, config: Config) -> Architecture:
    """The language model with the vision tower that ``vision_config`` describes, if it does."""
    vision = config.get("vision_config") or {}
    hidden = vision.get("hidden_size", 0)
    tower = VisionTower(
        layers=vision.get("depth") or vision.get("num_hidden_layers", 0),
        hidden=hidden,
        inner=vision.get("intermediate_size") or 4 * hidden,
        config=vision,
    )
    return replace(
        language,
        family=str(config.get("model_type")),
        tied=bool(config.get("tie_word_embeddings", language.tied)),
        vision=tower if vision else None,
        config=dict(config),
    )


def text_part(config: Config) -> Config:
    """The part of ``config.json`` that describes the language model."""
    text: Config = config.get("text_config") or config
    return text


# ---- what families share


def decoder(
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
    fused_gate_up: bool = False,
    variants: tuple[Variant, ...] = (),
) -> Architecture:
    """A decoder with grouped-query attention, as Llama is: the sizes by their usual keys, the switches by argument.

    Args:
        head_size: None: ``head_dim``, or the hidden size divided by the number of heads.
        norm_eps: None: ``rms_norm_eps``, or 1e-6.
        rotated_part: the part of a head that is rotated, unless ``config.json`` says it; ``interleaved``: neighbours
            are rotated together, not halves.
        variants: of this family, beside those that every family shares.
    """
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    size = head_size or config.get("head_dim") or hidden // heads
    rotary = read_rotary(config, size, rotated_part=rotated_part, interleaved=interleaved)
    return Architecture(
        family=str(config["model_type"]),
        vocabulary=_size(config, "vocab_size"),
        hidden=hidden,
        inner=_size(config, "intermediate_size"),
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        key_size=size,
        value_size=size,
        attention_scale=size**-0.5,
        norm_eps=float(norm_eps or config.get("rms_norm_eps", 1e-6)),
        rotary=rotary,
        tied=bool(config.get("tie_word_embeddings", False)),
        input_bias=input_bias,
        output_bias=output_bias,
        feed_forward_bias=feed_forward_bias,
        head_norms=head_norms,
        fused_gate_up=fused_gate_up,
        labels=_labels(config),
        variants=(*_common_variants(config, rotary.kind), *variants),
        config={key: value for key, value in config.items() if key != "quantization_config" or not in_blocks(config)},
    )


def _common_variants(config: Config, rotary: str) -> Iterator[Variant]:
    """Settings of any family that change the computation."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        yield Variant(f"hidden_act is {activation!r}", "silu")
    if config.get("use_sliding_window"):
        yield Variant("use_sliding_window", "full attention only")
    if config.get("quantization_config") and not in_blocks(config):
        yield Variant("quantization_config", "weights in float32, float16, bfloat16, or in fp8 by blocks of 128 x 128")
    if rotary not in SCALINGS:
        yield Variant(f"rotary embedding of type {rotary!r}", ", ".join(SCALINGS))


def in_blocks(config: Config) -> bool:
    """True for 8-bit weights with a factor for each block, which are multiplied out as they are read."""
    settings = config.get("quantization_config") or {}
    return settings.get("quant_method") == "fp8" and settings.get("weight_block_size") == [128, 128]


def _size(config: Config, key: str) -> int:
    value = config[key]
    if not isinstance(value, int) or value <= 0:
        raise ConfigError(f"config.json of the model: {key} is {value!r}; accepted: a positive integer")
    return value


def _labels(config: Config) -> int:
    """Outputs of a sequence classifier; 0 for a causal LM."""
    name = next(iter(config.get("architectures") or ()), "")
    if not name.endswith("ForSequenceClassification"):
        return 0
    return len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))
