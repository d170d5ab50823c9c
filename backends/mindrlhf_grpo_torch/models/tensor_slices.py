"""Tensor parallel: the ranks of a group hold slices of every matrix of a layer and compute the same rows.

After Megatron (arXiv:1909.08053): attention heads, inner columns of an MLP and ids of the vocabulary are shared out.
The input of an attention or MLP module is used as it is, and its gradient summed; its output is summed, and the gradient
used as it is. Modules stay what they are, with smaller weights, so every kind of attention and layout computes them
unchanged. A weight inside such a module that is not cut (a router, the norm of each head) sees only this rank's part of
the gradient, which is summed over the group after the backward pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mindrlhf_grpo.errors import BackendError, ConfigError
from mindrlhf_grpo.parallel.parameter_names import INPUTS, HeadSizes, describe_parameters, module_name
from mindrlhf_grpo.parallel.resharding import Box, Parameter, RankLayout, box_in_parameter, chunk, rank_blocks, slices

from ..comm import Group
from .hf import causal_lm_of

FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "glm4", "deepseek_v3", "granite", "gemma2", "gemma3_text",
    "qwen2_5_vl", "qwen2_5_vl_text",
)  # fmt: skip
# Weights inside attention and MLP modules of which each rank holds everything.
WHOLE = {
    "q_norm", "k_norm", "gate", "router", "q_a_proj", "q_a_layernorm", "kv_a_proj_with_mqa", "kv_a_layernorm",
}  # fmt: skip
REGIONS = ("self_attn", "mlp")
VOCABULARY = ("embed_tokens", "lm_head")
ADAPTER = re.compile(r"^(?P<module>.*)\.lora_(?P<factor>[AB])\.(?:\w+\.)?weight$")


class Copied(torch.autograd.Function):
    """The tensor itself; its gradient is summed over the group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradient.clone(memory_format=torch.contiguous_format)), None


class Summed(torch.autograd.Function):
    """The sum over the group; the gradient is used as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return group.sum(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Joined(torch.autograd.Function):
    """The slices of the last axis of all ranks, side by side; each rank keeps the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, sizes: tuple[int, ...]) -> Tensor:
        ctx.span = (sum(sizes[: group.place]), sizes[group.place])
        return join_last(x, group, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.narrow(-1, *ctx.span), None, None


def join_last(x: Tensor, group: Group, sizes: tuple[int, ...]) -> Tensor:
    """Slices ``[..., sizes[i]]`` of all ranks as one tensor ``[..., sum(sizes)]``."""
    padded = nn.functional.pad(x, (0, max(sizes) - x.shape[-1]))
    pieces = group.gather(padded)
    return torch.cat([piece[..., :size] for piece, size in zip(pieces, sizes, strict=True)], dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlices:
    """How a model has been cut.

    Attributes:
        group: the ranks that hold it together.
        parameters: full shape and cut of every weight, by name without wrappers.
        partial: weights that are whole on each rank and whose gradients are summed over the group.
    """

    group: Group
    parameters: dict[str, Parameter]
    partial: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularySlice:
    """The ids of a vocabulary that this rank holds the rows of.

    Attributes:
        first: the first one.
        sizes: number of ids of each rank.
    """

    group: Group
    first: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.sizes[self.group.place]

    def local(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids as rows of this rank's slice, 0 for those of other ranks, and which are those of others."""
        rows = ids - self.first
        others = (rows < 0) | (rows >= self.size)
        return rows.masked_fill(others, 0), others


def bare(name: str) -> str:
    """A parameter's name without what peft puts before and into it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".default.", ".")


def describe(whole: Any) -> dict[str, Parameter]:
    """Every weight of a whole model by its bare name, with the axis and the units that tensor-parallel ranks divide."""
    heads = head_sizes(whole.config.get_text_config())
    shapes = {bare(name): tuple(parameter.shape) for name, parameter in whole.named_parameters()}
    inside = tuple(f"{name}." for name in regions_of(whole))
    return {
        one.name: one
        if one.name.startswith(inside) or module_name(one.name) in VOCABULARY
        else replace(one, axis=None, parts=())
        for one in describe_parameters(shapes, heads)
    }


def regions_of(whole: Any) -> dict[str, nn.Module]:
    """The attention and MLP modules of every decoder layer, by name."""
    return {f"{name}.{part}": getattr(layer, part) for name, layer in decoder_layers(whole).items() for part in REGIONS}


def head_sizes(config: Any) -> HeadSizes:
    """Rows of one head."""
    if getattr(config, "kv_lora_rank", None):
        return HeadSizes(
            size=config.qk_nope_head_dim + config.qk_rope_head_dim,
            keys=config.qk_nope_head_dim,
            values=config.v_head_dim,
        )
    return HeadSizes(size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def whole_parameters(whole: nn.Module) -> dict[str, Parameter]:
    """The weights of a model that is not cut, by bare name."""
    named = whole.named_parameters()
    return {bare(name): Parameter(name=bare(name), shape=tuple(weight.shape)) for name, weight in named}


def fill_part(part: Tensor, parameter: Parameter, layout: RankLayout, rank: int, read: Callable[[Box], Tensor]) -> None:
    """Fill a rank's part of a weight from boxes of the full one."""
    for block in rank_blocks(layout, [parameter], rank):
        part[slices(box_in_parameter(block.box, block))] = read(block.box).to(part.device)


def own_slice(parameter: Parameter, full: Tensor, layout: RankLayout, rank: int) -> Tensor:
    """The part of a full tensor that a rank of a layout holds, as a copy."""
    blocks = list(rank_blocks(layout, [parameter], rank))
    if not blocks:  # more ranks than rows
        within = full if layout.tp == 1 else own_slice(parameter, full, RankLayout(tp=layout.tp), rank % layout.tp)
        return within[:0]
    places = [box_in_parameter(block.box, block) for block in blocks]
    ends = [max((place[axis][1] for place in places), default=0) for axis in range(full.dim())]
    part = full.new_empty(ends)
    for block, place in zip(blocks, places, strict=True):
        part[slices(place)] = full[slices(block.box)]
    return part


@torch.no_grad()
def cut(model: Any, group: Group | None, key: str = "parallel.tensor") -> TensorSlices | None:
    """Cut a loaded model in place, adapters included; None where each rank holds it whole.

    Args:
        key: the configuration key that asks for it, for messages.

    Raises:
        BackendError: a family or an adapter that is not cut here.
        ConfigError: heads that cannot be shared out evenly.
    """
    if group is None:
        return None
    whole = causal_lm_of(model)
    check_cuttable(whole, group.size, key)
    parameters, regions = describe(whole), regions_of(whole)
    inside = tuple(f"{name}." for name in regions)
    partial = {name for name, one in parameters.items() if one.axis is None and name.startswith(inside)}
    check_whole(partial, key)
    layout = RankLayout(tp=group.size)
    replace_parameters(whole, lambda name, full: own_slice(parameters[name], full, layout, group.place))
    for region in regions.values():
        enter_and_leave(region, group)
        fit_linears(region, group)
    cut_vocabulary(whole, group)
    return TensorSlices(group=group, parameters=parameters, partial=frozenset(partial))


def decoder_layers(whole: Any) -> dict[str, Any]:
    """The decoder layers of a language model by name; those of a vision tower are not cut."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return {
        name: module
        for name, module in whole.named_modules()
        if isinstance(module, GradientCheckpointingLayer) and hasattr(module, "self_attn") and hasattr(module, "mlp")
        and "visual" not in name
    }  # fmt: skip


def check_cuttable(whole: Any, size: int, key: str) -> None:
    """Raise unless the model is of a family that is cut here, with heads for every rank."""
    if whole.config.model_type not in FAMILIES or not decoder_layers(whole):
        raise BackendError(
            f"{key}={size} is not made for {whole.config.model_type} ({type(whole).__name__}); accepted: {key}=1, or a "
            f"model of {', '.join(FAMILIES)}"
        )
    language = whole.config.get_text_config()
    latent = bool(getattr(language, "kv_lora_rank", None))
    for name in ("num_attention_heads", *(() if latent else ("num_key_value_heads",))):
        heads = getattr(language, name)
        if heads % size:
            accepted = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
            raise ConfigError(
                f"{key} is {size}, which does not divide {name} ({heads}) of the model; accepted: {accepted}"
            )
    if any(type(module) is not nn.Linear for module in filter(None, [whole.get_output_embeddings()])):
        raise BackendError(
            f"{key}={size} is not made for an adapter on the output head; accepted: lora_targets without it"
        )


def check_whole(names: Iterable[str], key: str) -> None:
    """Raise BackendError for a weight inside a layer of which nothing says how it is cut."""
    for name in names:
        whole = {module_name(name), name.rsplit(".", 1)[-1]} & WHOLE
        if not whole and ".lora_" not in name and module_name(name) not in INPUTS:
            raise BackendError(f"{key}: nothing says how weight {name!r} is cut; accepted: {key}=1")


def replace_parameters(whole: nn.Module, sliced: Callable[[str, Tensor], Tensor]) -> None:
    """Put each rank's slices in the place of the weights; tied ones stay one."""
    made: dict[int, nn.Parameter] = {}
    names = {id(parameter): bare(name) for name, parameter in whole.named_parameters()}
    for module in whole.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                own = sliced(names[id(parameter)], parameter.data)
                made[id(parameter)] = nn.Parameter(own, requires_grad=parameter.requires_grad)
                made[id(made[id(parameter)])] = made[id(parameter)]
            setattr(module, key, made[id(parameter)])


def enter_and_leave(region: nn.Module, group: Group) -> None:
    """Sum the gradient of a region's input, and its output, over the group."""

    def enter(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        if arguments:
            return (Copied.apply(arguments[0], group), *arguments[1:]), named
        return arguments, {**named, "hidden_states": Copied.apply(named["hidden_states"], group)}

    def leave(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (Summed.apply(output[0], group), *output[1:])
        return Summed.apply(output, group)

    region.register_forward_pre_hook(enter, with_kwargs=True)
    region.register_forward_hook(leave)


def fit_linears(region: nn.Module, group: Group) -> None:
    """Make linear modules' sizes those of their slices; of a bias that follows a sum each rank adds its share."""
    for name, module in region.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        module.out_features, module.in_features = module.weight.shape
        if module.bias is not None and module_name(f"{name.removesuffix('.base_layer')}.weight") in INPUTS:
            module.forward = share_of_bias(module, group.size)  # type: ignore[method-assign, assignment]


def share_of_bias(module: nn.Linear, ranks: int) -> Callable[[Tensor], Tensor]:
    """The forward of a linear module whose output is summed over so many ranks."""

    def forward(x: Tensor) -> Tensor:
        return nn.functional.linear(x, module.weight, module.bias / ranks)

    return forward


def cut_vocabulary(whole: Any, group: Group) -> None:
    """Embed each rank's own ids and sum; compute each rank's own logits and join them."""
    vocabulary = whole.get_input_embeddings().num_embeddings
    bounds = [chunk(vocabulary, place, group.size) for place in range(group.size)]
    held = VocabularySlice(
        group=group, first=bounds[group.place][0], sizes=tuple(last - first for first, last in bounds)
    )
    if min(held.sizes) == 0:
        raise ConfigError(
            f"a vocabulary of {vocabulary} ids leaves some of {group.size} tensor-parallel ranks without any"
        )
    embedding, projection = whole.get_input_embeddings(), whole.get_output_embeddings()
    embedding.forward = embed_own(embedding.forward, held)
    embedding.vocabulary_slice = held
    if projection is not None:
        projection.forward = joined_logits(projection.forward, held)
        projection.vocabulary_slice = held


def embed_own(forward: Callable[[Tensor], Tensor], held: VocabularySlice) -> Callable[[Tensor], Tensor]:
    """The forward of an embedding of which each rank holds some rows."""

    def embed(ids: Tensor) -> Tensor:
        rows, others = held.local(ids)
        embedded: Tensor = Summed.apply(forward(rows).masked_fill(others[..., None], 0.0), held.group)
        return embedded

    return embed


def joined_logits(forward: Callable[[Tensor], Tensor], held: VocabularySlice) -> Callable[[Tensor], Tensor]:
    """The forward of an output head of which each rank holds some rows: the logits of all ids."""

    def project(hidden: Tensor) -> Tensor:
        logits: Tensor = Joined.apply(forward(Copied.apply(hidden, held.group)), held.group, held.sizes)
        return logits

    return project
