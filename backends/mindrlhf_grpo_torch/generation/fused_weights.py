"""The weights of a Llama-shaped model as few large matrices, shared with the model where nothing is adapted.

q, k and v are one tensor, gate and up another. The model's own parameters become views of these tensors: an optimizer
that updates them in place updates the decoder, without a copy and without extra memory. A module with a LoRA adapter
keeps its own weights; the decoder then holds a merged copy, which the weight sync updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.hf import causal_lm_of, merged_weight
from .decoder import UnsupportedModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One or several linear modules with the same input as one: ``[sum of outputs, inputs]``."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The weights of one decoder layer."""

    attention_norm: Tensor
    qkv: Projection
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedWeights:
    """The weights of a model; ``named`` maps Hugging Face names to (views of) the other tensors."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Projection
    named: dict[str, Tensor]


def check_family(causal_lm: Any) -> None:
    """Raises UnsupportedModel unless the architecture is one the fused decoder computes."""
    config = causal_lm.config
    if config.model_type not in FAMILIES:
        raise UnsupportedModel(f"model type {config.model_type} is not one of {', '.join(FAMILIES)}")
    kinds = set(getattr(config, "layer_types", None) or ())
    uniform = config.model_type == "mistral" and config.sliding_window is not None
    if uniform or kinds - {"full_attention"}:
        raise UnsupportedModel("some layers attend through a sliding window")
    if config.hidden_act not in ("silu", "swish"):
        raise UnsupportedModel(f"activation {config.hidden_act} is not silu")
    rope = getattr(causal_lm.model.rotary_emb, "rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise UnsupportedModel(f"rotary embedding {rope} depends on the sequence length")


@torch.no_grad()
def fuse(model: Any) -> FusedWeights:
    """Fuse the weights of a model, making its parameters views of the result.

    Raises:
        UnsupportedModel: the model is not Llama-shaped, or adapted in a way that is not a plain LoRA.
    """
    causal_lm = causal_lm_of(model)
    check_family(causal_lm)
    modules = dict(causal_lm.named_modules())
    for name in ("model.embed_tokens", "model.norm", "lm_head"):
        if any(True for _ in modules[name].children()):
            raise UnsupportedModel(f"{name} is adapted")
    layers = tuple(range(len(causal_lm.model.layers)))
    for index in layers:
        for part in (QKV, GATE_UP, OUTPUT, DOWN):
            for name in part:
                check_linear(f"layer {index} {name}", modules[f"model.layers.{index}.{name}"])
    named: dict[str, Tensor] = {}
    fused = tuple(fuse_layer(f"model.layers.{index}", modules, named) for index in layers)
    embedding = enter(named, "model.embed_tokens.weight", modules["model.embed_tokens"].weight)
    head = modules["lm_head"]
    if head.weight is not modules["model.embed_tokens"].weight:
        enter(named, "lm_head.weight", head.weight)
    bias = None if head.bias is None else enter(named, "lm_head.bias", head.bias)
    norm = enter(named, "model.norm.weight", modules["model.norm"].weight)
    return FusedWeights(
        embedding=embedding, layers=fused, norm=norm, named=named,
        head=Projection(weight=head.weight.detach(), bias=bias),
    )  # fmt: skip


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUTPUT = ("self_attn.o_proj",)
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
DOWN = ("mlp.down_proj",)


def fuse_layer(prefix: str, modules: dict[str, nn.Module], named: dict[str, Tensor]) -> Layer:
    """Fuse one layer; its tensors are entered in ``named``."""

    def norm(name: str) -> Tensor:
        return enter(named, f"{prefix}.{name}.weight", modules[f"{prefix}.{name}"].get_parameter("weight"))

    def projection(names: Sequence[str]) -> Projection:
        return fuse_linears([f"{prefix}.{name}" for name in names], modules, named)

    heads_normed = f"{prefix}.self_attn.q_norm" in modules
    return Layer(
        attention_norm=norm("input_layernorm"),
        qkv=projection(QKV),
        query_norm=norm("self_attn.q_norm") if heads_normed else None,
        key_norm=norm("self_attn.k_norm") if heads_normed else None,
        output=projection(OUTPUT),
        mlp_norm=norm("post_attention_layernorm"),
        gate_up=projection(GATE_UP),
        down=projection(DOWN),
    )


def fuse_linears(names: Sequence[str], modules: dict[str, nn.Module], named: dict[str, Tensor]) -> Projection:
    """Fuse linear modules into one projection; plain ones become views of it."""
    linears = [modules[name] for name in names]
    weight = stack(
        [f"{name}.weight" for name in names],
        [plain_linear(linear).weight for linear in linears],
        [adapted_weight(linear) for linear in linears],
        named,
    )
    biases = [plain_linear(linear).bias for linear in linears]
    bias = None if biases[0] is None else stack([f"{n}.bias" for n in names], biases, [None] * len(names), named)
    return Projection(weight=weight, bias=bias)


def stack(
    names: Sequence[str], parameters: Sequence[Tensor], adapted: Sequence[Tensor | None], named: dict[str, Tensor]
) -> Tensor:
    """Concatenate parameters; each without an adapted value becomes a view of the result."""
    if len(names) == 1 and adapted[0] is None:
        return enter(named, names[0], parameters[0])
    values = [plain if merged is None else merged for plain, merged in zip(parameters, adapted, strict=True)]
    fused = torch.cat([value.detach() for value in values])
    views = fused.split([len(value) for value in values])
    for name, parameter, merged, view in zip(names, parameters, adapted, views, strict=True):
        named[name] = view
        if merged is None:
            parameter.data = view
    return fused


def enter(named: dict[str, Tensor], name: str, parameter: Tensor) -> Tensor:
    """Enter the parameter's own storage under its name, and return it."""
    named[name] = parameter.detach()
    return named[name]


def check_linear(name: str, module: nn.Module) -> None:
    """Raises UnsupportedModel unless the module is a linear one, or a plain LoRA over one."""
    if type(plain_linear(module)) is not nn.Linear:
        raise UnsupportedModel(f"{name} is a {type(plain_linear(module)).__name__}")
    if not is_adapted(module):
        return
    variants: Any = getattr(module, "lora_variant", {})
    biased: Any = getattr(module, "lora_bias", {})
    if not hasattr(module, "lora_A") or len(variants) or any(biased.values()):
        raise UnsupportedModel(f"{name} has an adapter that is not a plain LoRA")


def is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "base_layer")


def plain_linear(module: nn.Module) -> Any:
    """The linear module inside an adapter, or the module itself."""
    return module.base_layer if is_adapted(module) else module


def adapted_weight(module: nn.Module) -> Tensor | None:
    """The merged weight of an adapted module; None for a plain one."""
    return merged_weight(module, plain_linear(module).weight) if is_adapted(module) else None
