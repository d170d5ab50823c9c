"""Which weights of a training model make up a weight of the model that generates, and how ranks share them.

Names follow Hugging Face; MindFormers' older names of the same matrices are known too. Prefixes that only say how a
model is wrapped do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ConfigError, did_you_mean
from .resharding import Parameter, Part

# One matrix of the generating model, and the matrices of the training model that it is made of, one under another.
JOINED: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "w_qkv": ("wq", "wk", "wv"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "w_gate_hidden": ("w1", "w3"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"),
}
# Latent attention (DeepSeek): every head's rows of one matrix are its keys', then its values'.
PARTED: dict[str, tuple[str, int]] = {
    "k_b_proj": ("kv_b_proj", 0),
    "v_b_proj": ("kv_b_proj", 1),
    "lkv2kv_k_nope": ("lkv2kv", 0),
    "lkv2kv_v": ("lkv2kv", 1),
}
# Ranks share the outputs of these, the inputs of those (Megatron, arXiv:1909.08053); all others each holds whole.
OUTPUTS = {
    "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "q_b_proj", "kv_b_proj", "embed_tokens", "lm_head",
    "wq", "wk", "wv", "w1", "w3", "lkv2kv", "tok_embeddings", *PARTED, *(set(JOINED) - {"fused_qkv_a_proj_with_mqa"}),
}  # fmt: skip
INPUTS = {"o_proj", "down_proj", "wo", "w2"}
HEADS = {"q_proj", "k_proj", "v_proj", "wq", "wk", "wv"}

WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module|base_model|backbone|model|policy)\.)+")
LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSizes:
    """Rows of one head.

    Attributes:
        size: of queries, keys and values; 1: heads may be cut.
        keys, values: of latent attention's up-projection, keys without their rotary part.
    """

    size: int = 1
    keys: int = 0
    values: int = 0


def parameters_of(shapes: Mapping[str, tuple[int, ...]], heads: HeadSizes | None = None) -> list[Parameter]:
    """Weights by name and whole shape, with the axis that tensor-parallel ranks share and the layer they go with."""
    heads = heads or HeadSizes()
    layers = [int(found.group(1)) for found in map(LAYER.search, shapes) if found]
    last = max(layers, default=0)
    return [
        Parameter(
            name=name, shape=tuple(shape), axis=axis_of(name, len(shape)), layer=layer_of(name, last),
            parts=() if not shape else (whole(name, tuple(shape), heads),),
        )
        for name, shape in shapes.items()
    ]  # fmt: skip


def matched(
    train: Mapping[str, tuple[int, ...]], infer: Mapping[str, tuple[int, ...]], heads: HeadSizes | None = None
) -> list[Parameter]:
    """The generating model's weights, each made of the training model's.

    Raises:
        ConfigError: a weight of either side without a counterpart, or of another shape.
    """
    heads = heads or HeadSizes()
    known = {bare(name): name for name in train}
    found: list[Parameter] = []
    used: set[str] = set()
    for parameter in parameters_of(infer, heads):
        parts = tuple(
            replace(part, tensor=known[part.tensor])
            for part in counterparts(parameter.name, {own: train[name] for own, name in known.items()}, heads)
        )
        length = sum(stop - start for part in parts for start, stop in part.rows)
        if parameter.shape and length != parameter.shape[parameter.joined]:
            sources = ", ".join(f"{part.tensor} {train[part.tensor]}" for part in parts)
            raise ConfigError(f"weight {parameter.name!r} is {parameter.shape}; made of {sources} it would be another")
        used |= {part.tensor for part in parts}
        found.append(replace(parameter, parts=parts))
    if left := sorted(set(train) - used):
        raise ConfigError(f"weights of the policy that the engine has no place for: {', '.join(left[:3])}")
    return found


def counterparts(name: str, known: Mapping[str, tuple[int, ...]], heads: HeadSizes) -> list[Part]:
    """What a weight is made of, by bare names."""
    own = bare(name)
    if own in known:
        return [whole(own, known[own], heads)]
    module = module_of(own)
    if module in JOINED:
        names = [swap(own, module, source) for source in JOINED[module]]
        if all(source in known for source in names):
            return [whole(source, known[source], heads) for source in names]
    if module in PARTED:
        source = swap(own, module, PARTED[module][0])
        if source in known:
            return [of_heads(source, known[source], heads, values=bool(PARTED[module][1]))]
    if module == "lm_head" and (tied := swap(own, module, "embed_tokens")) in known:
        return [whole(tied, known[tied], heads)]
    raise ConfigError(f"weight {name!r} of the engine has no counterpart in the policy{did_you_mean(own, known)}")


def whole(name: str, shape: tuple[int, ...], heads: HeadSizes) -> Part:
    """All rows of a tensor, along the axis it is shared by."""
    axis = axis_of(name, len(shape)) or 0
    unit = heads.size if module_of(name) in HEADS else 1
    if module_of(name) in {"kv_b_proj", "lkv2kv"}:
        unit = heads.keys + heads.values or 1
    return Part(tensor=name, rows=((0, shape[axis]),) if shape else (), unit=unit)


def of_heads(name: str, shape: tuple[int, ...], heads: HeadSizes, *, values: bool) -> Part:
    """Every head's keys, or values, of an up-projection of both.

    Raises:
        ConfigError: rows that are no whole number of heads.
    """
    stride = heads.keys + heads.values
    if not heads.keys or not heads.values or shape[0] % stride:
        raise ConfigError(
            f"weight {name!r} {shape} is to be parted into heads of {heads.keys} keys and {heads.values} values"
        )
    first, length = (heads.keys, heads.values) if values else (0, heads.keys)
    starts = range(first, shape[0], stride)
    return Part(tensor=name, rows=tuple((start, start + length) for start in starts), unit=length)


def axis_of(name: str, dimensions: int) -> int | None:
    """The axis of a weight that tensor-parallel ranks share."""
    module = module_of(name)
    if module in OUTPUTS:
        return 0
    return 1 if module in INPUTS and dimensions > 1 else None


def layer_of(name: str, last: int) -> int:
    """The layer a weight goes with: embeddings with the first, what comes after the layers with the last."""
    found = LAYER.search(name)
    if found:
        return int(found.group(1))
    return 0 if "embed" in name else last


def module_of(name: str) -> str:
    """``model.layers.0.mlp.up_proj.weight`` -> ``up_proj``."""
    return name.split(".")[-2] if "." in name else name


def swap(name: str, module: str, other: str) -> str:
    return ".".join(other if part == module else part for part in name.split("."))


def bare(name: str) -> str:
    """A name without what wraps the model."""
    return WRAPPERS.sub("", name)
