"""The weights of a training model that make up each weight of the generating model, and how ranks divide them.

Names follow Hugging Face; MindFormers' older names of the same matrices are known too. Prefixes of wrappers are
ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ConfigError, did_you_mean
from ..model_files.architecture import Architecture
from .resharding import Parameter, Part

# A matrix of the generating model: the matrices of the training model that are stacked in it.
JOINED: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "w_qkv": ("wq", "wk", "wv"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "w_gate_hidden": ("w1", "w3"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"),
}
# Latent attention (DeepSeek): in one matrix, each head has the rows of its keys, then those of its values.
PARTED: dict[str, tuple[str, int]] = {
    "k_b_proj": ("kv_b_proj", 0),
    "v_b_proj": ("kv_b_proj", 1),
    "lkv2kv_k_nope": ("lkv2kv", 0),
    "lkv2kv_v": ("lkv2kv", 1),
}
# Ranks divide the outputs of the first, the inputs of the second (Megatron, arXiv:1909.08053); of all other weights
# each rank holds everything.
OUTPUTS = {
    "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "q_b_proj", "kv_b_proj", "embed_tokens", "lm_head",
    "wq", "wk", "wv", "w1", "w3", "lkv2kv", "tok_embeddings", *PARTED, *(set(JOINED) - {"fused_qkv_a_proj_with_mqa"}),
}  # fmt: skip
INPUTS = {"o_proj", "down_proj", "wo", "w2"}
HEADS = {"q_proj", "k_proj", "v_proj", "q_b_proj", "wq", "wk", "wv"}
TOWER = re.compile(r"(?:^|\.)(?:visual|vision_tower|multi_modal_projector)\.")  # of images: each rank holds all of it

WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module|base_model|backbone|model|policy)\.)+")
ADAPTER = re.compile(r"\.lora_([AB])\.weight$")
EXPERTS = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")
FUSED_HALVES = re.compile(r"(?:\.gate_up_proj|\.w_gate_hidden)(?:\.weight|\.bias)?$")
LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSizes:
    """Rows of one head.

    Attributes:
        size: rows of queries, keys and values each; 1: heads may be cut.
        keys, values: rows in latent attention's up-projection, keys without their rotary part.
    """

    size: int = 1
    keys: int = 0
    values: int = 0


def head_sizes(architecture: Architecture) -> HeadSizes:
    """The rows of one head of an architecture."""
    if architecture.latent is None:
        return HeadSizes(size=architecture.key_size)
    return HeadSizes(size=architecture.key_size, keys=architecture.latent.plain_size, values=architecture.value_size)


def describe_parameters(shapes: Mapping[str, tuple[int, ...]], heads: HeadSizes | None = None) -> list[Parameter]:
    """Describe weights given by name and full shape: the axis that tensor-parallel ranks divide, and the layer."""
    heads = heads or HeadSizes()
    layers = [int(match.group(1)) for match in map(LAYER.search, shapes) if match]
    last = max(layers, default=0)
    return [
        Parameter(
            name=name, shape=tuple(shape), axis=divided_axis(name, len(shape)), layer=layer_number(name, last),
            parts=() if not shape else tuple(own_parts(name, tuple(shape), heads)),
        )
        for name, shape in shapes.items()
    ]  # fmt: skip


def match_parameters(
    train: Mapping[str, tuple[int, ...]], infer: Mapping[str, tuple[int, ...]], heads: HeadSizes | None = None
) -> list[Parameter]:
    """Describe the generating model's weights, each as parts of the training model's.

    Raises:
        ConfigError: a weight of either side without a counterpart, or of another shape.
    """
    heads = heads or HeadSizes()
    known = {bare_name(name): name for name in train}
    shapes = {bare: train[name] for bare, name in known.items()}
    matches: list[Parameter] = []
    used: set[str] = set()
    for parameter in describe_parameters(infer, heads):
        counterparts = source_parts(parameter.name, shapes, heads)
        parts = tuple(replace(part, tensor=known[part.tensor]) for part in counterparts)
        length = sum(stop - start for part in parts for start, stop in part.rows)
        if parameter.shape and length != parameter.shape[parameter.joined]:
            sources = ", ".join(f"{part.tensor} {train[part.tensor]}" for part in parts)
            raise ConfigError(f"weight {parameter.name!r} is {parameter.shape}; made of {sources} it would be another")
        used |= {part.tensor for part in parts}
        matches.append(replace(parameter, parts=parts))
    if left := sorted(set(train) - used):
        raise ConfigError(f"weights of the policy that the engine has no place for: {', '.join(left[:3])}")
    return matches


def source_parts(name: str, known: Mapping[str, tuple[int, ...]], heads: HeadSizes) -> list[Part]:
    """The parts that make up a weight, by bare names.

    Raises:
        ConfigError: no weight of the training model corresponds to it.
    """
    bare = bare_name(name)
    if bare in known:
        return own_parts(bare, known[bare], heads)
    module = module_name(bare)
    if module in JOINED:
        names = [replace_module(bare, module, source) for source in JOINED[module]]
        if all(source in known for source in names):
            return [all_rows(source, known[source], heads) for source in names]
    if module in PARTED:
        source = replace_module(bare, module, PARTED[module][0])
        if source in known:
            return [head_rows(source, known[source], heads, values=bool(PARTED[module][1]))]
    if module == "lm_head" and (tied := replace_module(bare, module, "embed_tokens")) in known:
        return [all_rows(tied, known[tied], heads)]
    raise ConfigError(f"weight {name!r} of the engine has no counterpart in the policy{did_you_mean(bare, known)}")


def own_parts(name: str, shape: tuple[int, ...], heads: HeadSizes) -> list[Part]:
    """A tensor as a parameter of its own name: all rows; of gate and up in one matrix ranks divide either half."""
    part, axis = all_rows(name, shape, heads), divided_axis(name, len(shape))
    if axis is None or not FUSED_HALVES.search(name):
        return [part]
    half = shape[axis] // 2
    return [replace(part, rows=(rows,)) for rows in ((0, half), (half, shape[axis]))]


def all_rows(name: str, shape: tuple[int, ...], heads: HeadSizes) -> Part:
    """All rows of a tensor, along the axis that ranks divide."""
    axis = divided_axis(name, len(shape)) or 0
    unit = heads.size if module_name(name) in HEADS else 1
    if module_name(name) in {"kv_b_proj", "lkv2kv"}:
        unit = heads.keys + heads.values or 1
    return Part(tensor=name, rows=((0, shape[axis]),) if shape else (), unit=unit)


def head_rows(name: str, shape: tuple[int, ...], heads: HeadSizes, *, values: bool) -> Part:
    """Every head's rows of keys, or of values, in an up-projection of both.

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


def divided_axis(name: str, dimensions: int) -> int | None:
    """The axis of a weight that tensor-parallel ranks divide; None: each rank holds everything.

    Of an adapter they divide the factor that faces the cut side of its matrix; of stacked experts the inner width.
    """
    if dimensions == 3 and (stacked := EXPERTS.search(name)):
        return 1 if stacked.group(1) == "gate_up_proj" else 2
    factor = ADAPTER.search(name)
    if factor is not None:
        axis = divided_axis(name[: factor.start()] + ".weight", 2)
        return axis if axis == (1 if factor.group(1) == "A" else 0) else None
    module = module_name(name)
    if TOWER.search(name):
        return None
    if module in OUTPUTS:
        return 0
    return 1 if module in INPUTS and dimensions > 1 else None


def layer_number(name: str, last: int) -> int:
    """The layer a weight goes with: embeddings with the first, weights after the layers with the last."""
    match = LAYER.search(name)
    if match:
        return int(match.group(1))
    return 0 if "embed" in name else last


def module_name(name: str) -> str:
    """``model.layers.0.mlp.up_proj.weight`` -> ``up_proj``."""
    return name.split(".")[-2] if "." in name else name


def replace_module(name: str, module: str, other: str) -> str:
    return ".".join(other if part == module else part for part in name.split("."))


def bare_name(name: str) -> str:
    """A name without the prefixes of wrappers."""
    return WRAPPERS.sub("", name)
