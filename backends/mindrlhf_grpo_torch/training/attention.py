"""Attention over a packed row in which the completions of a group share their prompt's keys and values.

Every prompt and every completion is causal in itself; a completion also sees all of its prompt. Both parts are ordinary
attention; the second is merged by log-sum-exp, so prompt keys are neither repeated nor masked. The models run
unchanged: ``register`` adds the attention to transformers under ``NAME``.
Legend: S packed tokens, H heads, K key/value heads, D head size, B sequences of a block, L their longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mindrlhf_grpo.batches.packing import PackingPlan

NAME = "mindrlhf_shared"
BLOCK_FILL = 0.75  # a sequence shorter than this fraction of a block's longest opens a new block


class UnsupportedAttention(NotImplementedError):
    """The model requires a variant that the shared attention does not compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Causal sequences computed together: adjoining ones of equal length, or gathered with padding at the end.

    A padded place repeats its sequence's last token, so that no exponential overflows.
    """

    count: int
    length: int
    start: int = 0
    gather: Tensor | None = None  # [B * L] packed place of every padded place
    valid: Tensor | None = None  # places in the padded block that are not padding
    tokens: Tensor | None = None  # their packed places

    def read(self, packed: Tensor) -> Tensor:
        """``[S, H, ...]`` -> ``[B, H, L, ...]``."""
        places = slice(self.start, self.start + self.count * self.length) if self.gather is None else self.gather
        rows = packed[places]
        return rows.unflatten(0, (self.count, self.length)).transpose(1, 2)

    def read_gradient(self, packed: Tensor) -> Tensor:
        """Like ``read``, with zeros on padding."""
        if self.gather is None or self.valid is None or self.tokens is None:
            return self.read(packed)
        rows = packed.new_zeros((self.count * self.length, *packed.shape[1:]))
        rows[self.valid] = packed[self.tokens]
        return rows.unflatten(0, (self.count, self.length)).transpose(1, 2)

    def write(self, packed: Tensor, values: Tensor) -> None:
        """``[B, H, L, ...]`` into its places of ``[S, H, ...]``."""
        rows = values.transpose(1, 2).flatten(0, 1)
        if self.tokens is None or self.valid is None:
            packed[self.start : self.start + len(rows)] = rows
        else:
            packed[self.tokens] = rows[self.valid]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt and its completions in the packed row; completions adjoin."""

    prompt: slice
    span: slice  # all tokens of the completions
    rows: Block | None  # the completions padded to one block; None without a token

    @property
    def merges(self) -> bool:
        """True if completions attend to a prompt, which may be empty where values are read at tokens."""
        return self.rows is not None and self.prompt.stop > self.prompt.start


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAttention:
    """The attention plan of one packed row: all prompts, then the completions group by group."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    longest: int  # tokens of the longest prompt with completion


def plan_attention(plan: PackingPlan, device: torch.device) -> SharedAttention:
    """The attention of a shared packing plan."""
    spans = zip(plan.prompt_starts, plan.prompt_lengths, plan.members(), strict=True)
    return SharedAttention(
        groups=tuple(
            group_of(int(start), int(length), plan.starts[rows], plan.computed[rows], device)
            for start, length, rows in spans
        ),
        blocks=causal_blocks(plan.prompt_starts, plan.prompt_lengths, device)
        + causal_blocks(plan.starts[plan.order], plan.computed[plan.order], device),
        longest=plan.longest,
    )


def group_of(
    prompt_start: int, prompt_length: int, starts: NDArray[np.int64], lengths: NDArray[np.int64], device: torch.device
) -> Group:
    """A group from the spans of its prompt and of its completions, which adjoin in the given order."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    return Group(
        prompt=slice(prompt_start, prompt_start + prompt_length),
        span=slice(int(starts[0]), int(starts[-1] + lengths[-1])) if len(starts) else slice(0, 0),
        rows=block_of(starts, lengths, device) if len(starts) else None,
    )


def causal_blocks(starts: NDArray[np.int64], lengths: NDArray[np.int64], device: torch.device) -> tuple[Block, ...]:
    """Group sequences into blocks of similar length; empty ones are left out."""
    order = [int(row) for row in np.argsort(-lengths, kind="stable") if lengths[row]]
    blocks: list[Block] = []
    while order:
        longest = lengths[order[0]]
        rows = [row for row in order if lengths[row] >= BLOCK_FILL * longest]
        order = order[len(rows) :]
        blocks.append(block_of(starts[rows], lengths[rows], device))
    return tuple(blocks)


def block_of(starts: NDArray[np.int64], lengths: NDArray[np.int64], device: torch.device) -> Block:
    """One block of the given sequences, in their order."""
    count, longest = len(starts), int(lengths.max())
    if (lengths == longest).all() and (np.diff(starts) == longest).all():
        return Block(count=count, length=longest, start=int(starts[0]))
    place = np.arange(longest)[None, :]
    gather = torch.from_numpy((starts[:, None] + np.minimum(place, lengths[:, None] - 1)).reshape(-1))
    valid = torch.from_numpy(np.flatnonzero(place < lengths[:, None]))
    return Block(
        count=count, length=longest, gather=gather.to(device), valid=valid.to(device), tokens=gather[valid].to(device)
    )


class SharedFlashCpu(torch.autograd.Function):
    """The CPU flash kernel on every block and on every (completions, prompt) pair.

    Its backward recomputes probabilities as exp(score - lse): given output and log-sum-exp over *all* keys of a
    query it returns the exact gradient of each part.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: SharedAttention, scale: float) -> Tensor:
        """``[S, H, D]``, ``[S, K, D]`` twice -> ``[S, H, D]``."""
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        lse = query.new_empty(query.shape[:2], dtype=torch.float32)
        for block in plan.blocks:
            part, part_lse = FLASH(block.read(query), block.read(key), block.read(value), 0.0, True, scale=scale)
            block.write(output, part)
            block.write(lse, part_lse)
        for group in plan.groups:
            if group.merges:
                merge_prompt(output, lse, query, key, value, group, scale)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.plan, ctx.scale = plan, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        inputs = (query, key, value)
        gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        for block in ctx.plan.blocks:
            reads = [block.read(x) for x in (*inputs, output, lse)]
            parts = FLASH_BACKWARD(block.read_gradient(gradient), *reads, 0.0, True, scale=ctx.scale)
            for full, part in zip(gradients, parts, strict=True):
                block.write(full, part)
        for group in ctx.plan.groups:
            if group.merges:
                places = (group.span, group.prompt, group.prompt)
                reads = [heads_first(x[place]) for x, place in zip(inputs, places, strict=True)]
                reads += [heads_first(output[group.span]), heads_first(lse[group.span])]
                parts = FLASH_BACKWARD(heads_first(gradient[group.span]), *reads, 0.0, False, scale=ctx.scale)
                for full, place, part in zip(gradients, places, parts, strict=True):
                    full[place] += part[0].transpose(0, 1)
        return (*gradients, None, None)


# Output [B, H, L, D] and log-sum-exp [B, H, L] in float32; there may be fewer key/value heads (torch >= 2.9).
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def merge_prompt(
    output: Tensor, lse: Tensor, query: Tensor, key: Tensor, value: Tensor, group: Group, scale: float
) -> None:
    """Merge attention to the prompt into the completions' attention to themselves, in place."""
    keys, values = heads_first(key[group.prompt]), heads_first(value[group.prompt])
    part, part_lse = FLASH(heads_first(query[group.span]), keys, values, 0.0, False, scale=scale)
    part, part_lse = part[0].transpose(0, 1), part_lse[0].transpose(0, 1)
    mixed, mixed_lse = output[group.span], lse[group.span]
    total = torch.logaddexp(mixed_lse, part_lse)
    mixed.mul_((mixed_lse - total).exp_()[..., None]).add_(part * (part_lse - total).exp_()[..., None])
    mixed_lse.copy_(total)


def heads_first(packed: Tensor) -> Tensor:
    """``[L, H, ...]`` -> ``[1, H, L, ...]``."""
    return packed.transpose(0, 1)[None]


def portable_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: SharedAttention, scale: float, window: int | None
) -> Tensor:
    """The shared attention through ``scaled_dot_product_attention``, for any device, type and sliding window.

    ``[S, H, D]``, ``[S, K, D]`` twice -> ``[S, H, D]``. The prompt's keys are repeated for every completion.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, dim=1) if repeats > 1 else x for x in (key, value))
    prompts, completions = [], []
    for group in plan.groups:
        queries, keys, values = (heads_first(x[group.prompt]) for x in (query, key, value))
        prompts.append(masked_attention(queries, keys, values, scale, window)[0].transpose(0, 1))
        if group.rows is None:
            continue
        rows = group.rows
        keys, values = (
            torch.cat([heads_first(x[group.prompt]).expand(rows.count, -1, -1, -1), rows.read(x)], dim=2)
            for x in (key, value)
        )
        padded = masked_attention(rows.read(query), keys, values, scale, window).transpose(1, 2).flatten(0, 1)
        completions.append(padded if rows.valid is None else padded[rows.valid])
    return torch.cat([*prompts, *completions])


def masked_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention of queries ``[B, H, Q, D]`` at the last Q of the keys' positions, within the window unless None."""
    queries, keys = query.shape[2], key.shape[2]
    if queries == keys and (window is None or window >= keys):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    place = torch.arange(keys, device=query.device)
    distance = place[keys - queries :, None] - place[None, :]
    seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


@dataclass(slots=True)
class Active:
    """The plan of the current forward pass. Not a context variable: backward may recompute in other threads."""

    plan: SharedAttention | None = None


ACTIVE = Active()


@contextmanager
def attending(plan: SharedAttention | None) -> Iterator[None]:
    """Make the models attend by this plan; hold it over the backward pass too if activations are recomputed."""
    before, ACTIVE.plan = ACTIVE.plan, plan
    try:
        yield
    finally:
        ACTIVE.plan = before


REFUSED = ("softcap", "s_aux", "position_bias", "head_mask")


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer: ``[1, H, S, D]`` -> ``[1, S, H, D]``.

    Raises:
        UnsupportedAttention: the layer requires a variant that is not computed here.
    """
    plan = ACTIVE.plan
    if plan is None:
        return sdpa(module, query, key, value, attention_mask, dropout, scaling, sliding_window, more)
    refused = [name for name in REFUSED if more.get(name) is not None]
    if refused or attention_mask is not None or more.get("is_causal") is False:
        raise UnsupportedAttention(f"attention with {', '.join(refused) or 'a mask of its own'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    packed = [x[0].transpose(0, 1) for x in (query, key, value)]
    window = sliding_window if sliding_window is not None and sliding_window < plan.longest else None
    if window is None and flash_fits(query, value):
        return SharedFlashCpu.apply(*packed, plan, scale)[None], None
    return portable_attention(packed[0], packed[1], packed[2], plan, scale, window)[None], None


def flash_fits(query: Tensor, value: Tensor) -> bool:
    """True if the CPU flash kernel takes these tensors."""
    supported = (
        FLASH_HAS_GROUPED_HEADS and query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16)
    )
    return supported and query.shape[-1] == value.shape[-1]


FLASH_HAS_GROUPED_HEADS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 9)


def sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
    more: dict[str, Any],
) -> tuple[Tensor, None]:
    """The attention of transformers, for forward passes outside ``attending``."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        sliding_window=sliding_window,
        **more,
    )


def shared_mask(*arguments: Any, **named: Any) -> Tensor | None:
    """No mask while a plan is active, else that of transformers."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*arguments, **named) if ACTIVE.plan is None else None


def register() -> None:
    """Make the attention known to transformers under ``NAME``; harmless when repeated."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, shared_attention)
    AttentionMaskInterface.register(NAME, shared_mask)
