"""A hand-written decoder of Llama-shaped models: llama, mistral, qwen2, qwen3 without sliding windows.

A layer is a few large operations: one matmul for q, k and v, one for gate and up, rotary embedding and cache writes
over all heads at once. Grouped queries are folded into the query length, so keys are not repeated.
Rows are computed in multiples of ``ROWS``: a matmul library uses another kernel for the last few of an odd number, and
the float32 results of a completion would then depend on the number of its neighbours.
Legend: n running slots, H query heads, K key/value heads, R = H / K, D head size, E hidden size, L places read,
P padded prompt length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mindrlhf_grpo.types import IntArray

from ..models.hf import causal_lm_of
from ..models.tensor_slices import VocabularySlice, join_last
from .fused_weights import FusedWeights, Layer, Projection, fuse
from .kv_cache import PromptCache, SlotCache, round_up

PREFILL_TOKENS = 8192  # padded prompt tokens computed at once
ROWS = 8
COLUMNS = 16
OUTPUTS = 3072


class FusedDecoder:
    """Implements ``decoder.Decoder`` with its own forward pass over the model's weights."""

    name = "fused"
    inference_mode = True

    def __init__(self, model: Any) -> None:
        self.tensors: FusedWeights = fuse(model)
        causal_lm = causal_lm_of(model)
        config = causal_lm.config
        embedding = causal_lm.get_input_embeddings()
        self.held: VocabularySlice | None = getattr(embedding, "vocabulary_slice", None)
        self.group = None if self.held is None else self.held.group
        self.vocabulary: int = embedding.num_embeddings
        slices = 1 if self.group is None else self.group.size
        self.heads: int = config.num_attention_heads // slices
        self.kv_heads: int = config.num_key_value_heads // slices
        self.size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.eps: float = config.rms_norm_eps
        self.rotary = RotaryTable(causal_lm.model.rotary_emb, self.tensors.embedding)
        self.cache: SlotCache | None = None
        # The CPU kernel's scratch memory of a second thread is aligned, and its sums equal the first one's, only for
        # an even number of query rows.
        self.align_queries = self.device.type == "cpu" and self.tensors.embedding.dtype == torch.float32

    @property
    def device(self) -> torch.device:
        return self.tensors.embedding.device

    def weights(self) -> Mapping[str, Tensor]:
        return self.tensors.named

    def open(self, slots: int) -> None:
        slots = round_up(slots, ROWS)
        if self.cache is None or self.cache.slots != slots:
            shapes = [(2 * self.kv_heads, self.size)] * len(self.tensors.layers)
            self.cache = SlotCache(shapes, slots, self.tensors.embedding.dtype, self.device)

    def cache_bytes(self) -> int:
        return 0 if self.cache is None else self.cache.nbytes

    def close(self) -> None:
        self.cache = None

    def fork(self, prompt: PromptCache, slot: int) -> None:
        self._slots().fork(prompt, slot)

    def move(self, source: int, target: int) -> None:
        self._slots().move(source, target)

    def _slots(self) -> SlotCache:
        if self.cache is None:
            raise RuntimeError("open(slots) comes before decoding")
        return self.cache

    def prefill(
        self, prompts: Sequence[IntArray], features: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[PromptCache], Tensor]:
        """Compute prompts of similar length together, padded on the right; these models read text only."""
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        caches: list[Any] = [None] * len(prompts)
        logits = torch.empty((len(prompts), self.vocabulary), device=self.device)
        while order:
            count = max(1, PREFILL_TOKENS // round_up(len(prompts[order[0]]), ROWS))
            batch, order = order[:count], order[count:]
            states, logits[batch] = self._prefill([prompts[index] for index in batch])
            for index, state in zip(batch, states, strict=True):
                caches[index] = state
        return caches, logits

    def _prefill(self, prompts: Sequence[IntArray]) -> tuple[list[PromptCache], Tensor]:
        """Compute one padded batch, longest prompt first."""
        lengths = [len(prompt) for prompt in prompts]
        rows, width = len(prompts), round_up(lengths[0], ROWS)
        ids = np.zeros((rows, width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        hidden = self._embed(torch.from_numpy(ids).to(self.device)).flatten(0, 1)
        cos, sin = self.rotary.at(torch.arange(width, device=self.device).repeat(rows), width)
        parts: list[list[Tensor]] = [[] for _ in prompts]
        for layer in self.tensors.layers:
            qkv = self._qkv(hidden, layer, cos, sin, few=False).unflatten(0, (rows, width)).transpose(1, 2)
            query, key, value = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            for row, length in enumerate(lengths):
                parts[row].append(qkv[row, self.heads :, :length].contiguous())
            mixed = F.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=self.heads != self.kv_heads
            )
            hidden = self._after_attention(hidden, mixed.transpose(1, 2).reshape(rows * width, -1), layer, few=False)
        ends = pad_rows([row * width + length - 1 for row, length in enumerate(lengths)])
        logits = self._logits(hidden[torch.tensor(ends, device=self.device)])
        return [PromptCache(parts=tuple(part)) for part in parts], logits[:rows]

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        cache, running = self._slots(), round_up(len(tokens), ROWS)
        cache.reserve(max(positions) + 1)
        used = min(round_up(max(positions) + 1), cache.length)
        ids, places = torch.tensor([pad_rows(tokens), pad_rows(positions)], device=self.device)
        hidden = self._embed(ids)
        cos, sin = self.rotary.at(places, used)
        mask = self._mask(places, used)
        targets = cache.places(places, 2 * self.kv_heads)
        for index, layer in enumerate(self.tensors.layers):
            qkv = self._qkv(hidden, layer, cos, sin, few=True)
            cache.write(index, targets, qkv[:, self.heads :])
            stored = cache.read(index, running, used)
            key, value = stored[:, : self.kv_heads], stored[:, self.kv_heads :]
            mixed = self._attend(qkv[:, : self.heads], key, value, mask)
            hidden = self._after_attention(hidden, mixed.reshape(running, -1), layer, few=True)
        return self._logits(hidden)[: len(tokens)]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """One query token of every slot ``[n, H, D]`` over ``[n, K, L, D]`` -> ``[n, K, R, D]``."""
        grouped = query.view(len(query), self.kv_heads, -1, self.size)
        repeats = grouped.shape[2]
        if self.align_queries:
            grouped = F.pad(grouped, (0, 0, 0, round_up(repeats, ROWS) - repeats))
        return F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)[:, :, :repeats]

    def _mask(self, positions: Tensor, used: int) -> Tensor:
        """Additive mask ``[n, 1, 1, L]``: a slot sees its places up to its current position."""
        unseen = torch.arange(used, device=self.device) > positions[:, None]
        mask = torch.zeros(unseen.shape, dtype=self.tensors.embedding.dtype, device=self.device)
        return mask.masked_fill_(unseen, -torch.inf)[:, None, None]

    def _qkv(self, hidden: Tensor, layer: Layer, cos: Tensor, sin: Tensor, *, few: bool) -> Tensor:
        """``[n, E]`` -> queries, keys and values ``[n, H + 2K, D]``, the first two rotated."""
        qkv = (
            project(self._norm(hidden, layer.attention_norm), layer.qkv, few=few)
            .contiguous()
            .unflatten(-1, (-1, self.size))
        )
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = qkv[:, : self.heads], qkv[:, self.heads : self.heads + self.kv_heads]
            query.copy_(self._norm(query, layer.query_norm))
            key.copy_(self._norm(key, layer.key_norm))
        rotate(qkv[:, : self.heads + self.kv_heads], cos, sin)
        return qkv

    def _after_attention(self, hidden: Tensor, mixed: Tensor, layer: Layer, *, few: bool) -> Tensor:
        """The rest of a layer: output projection, residuals, feed-forward."""
        hidden = self._onto(hidden, mixed, layer.output, few=few)
        gate, up = project(self._norm(hidden, layer.mlp_norm), layer.gate_up, few=few).chunk(2, dim=-1)
        return self._onto(hidden, F.silu(gate).mul_(up), layer.down, few=few)

    def _onto(self, hidden: Tensor, inputs: Tensor, projection: Projection, *, few: bool) -> Tensor:
        """``hidden`` plus the projection, of whose inputs each tensor-parallel rank has some columns."""
        if self.group is None:
            return project(inputs, projection, onto=hidden, few=few)
        part = project(inputs, Projection(weight=projection.weight, bias=None), few=few).contiguous()
        whole = self.group.sum(part)
        return whole.add_(hidden) if projection.bias is None else whole.add_(projection.bias).add_(hidden)

    def _embed(self, ids: Tensor) -> Tensor:
        """``[...]`` -> ``[..., E]``; each tensor-parallel rank has the rows of some ids."""
        if self.held is None:
            return F.embedding(ids, self.tensors.embedding)
        rows, others = self.held.local(ids)
        own = F.embedding(rows, self.tensors.embedding).masked_fill_(others[..., None], 0.0)
        return self.held.group.sum(own)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm (Zhang and Sennrich 2019)."""
        return F.rms_norm(hidden, hidden.shape[-1:], weight, self.eps)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = project(self._norm(hidden, self.tensors.norm), self.tensors.head, few=True).contiguous().float()
        return logits if self.held is None else join_last(logits, self.held.group, self.held.sizes)


def project(inputs: Tensor, projection: Projection, onto: Tensor | None = None, *, few: bool) -> Tensor:
    """The projection of ``[n, inputs]``, added to ``onto`` unless it is None; ``few``: see ``few_rows``."""
    if few and inputs.dtype == torch.float32 and inputs.device.type == "cpu":
        outputs = few_rows(inputs, projection.weight)
        if projection.bias is not None:
            outputs = outputs + projection.bias
        return outputs if onto is None else onto + outputs
    if onto is not None and projection.bias is None:
        return torch.addmm(onto, inputs, projection.weight.t())
    outputs = F.linear(inputs, projection.weight, projection.bias)
    return outputs if onto is None else outputs.add_(onto)


def few_rows(inputs: Tensor, weight: Tensor) -> Tensor:
    """``inputs @ weight.T`` as the transpose of ``weight @ inputs.T``: a quarter less time for the rows of a decode step.

    The columns are padded to a multiple of ``COLUMNS``; fewer go through another kernel, with other rounding. A
    vocabulary is computed ``OUTPUTS`` ids at a time, which fits a processor's cache better.
    """
    rows = len(inputs)
    if rows % COLUMNS:
        inputs = F.pad(inputs, (0, 0, 0, COLUMNS - rows % COLUMNS))
    parts = [torch.mm(part, inputs.t()).t() for part in weight.split(OUTPUTS)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))[:rows]


def pad_rows(numbers: Sequence[int]) -> list[int]:
    """Append zeros up to a multiple of ``ROWS``: the results of these rows are dropped, their slots are free."""
    return [*numbers, *[0] * (round_up(len(numbers), ROWS) - len(numbers))]


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary embedding (Su et al. 2021) of ``[n, heads, D]`` in place; ``sin`` carries the sign of its half."""
    turned = heads.roll(heads.shape[-1] // 2, dims=-1).mul_(sin)
    heads.mul_(cos).add_(turned)


class RotaryTable:
    """Cosines and signed sines of every position so far, computed by the model's own rotary module."""

    def __init__(self, module: Any, like: Tensor) -> None:
        self.module, self.like = module, like
        self.cos = self.sin = like.new_empty((0, 1, 0))

    def at(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """``[n]`` positions below ``length`` -> cos and sin ``[n, 1, D]``."""
        if length > len(self.cos):
            places = torch.arange(round_up(2 * length), device=self.like.device)[None]
            cos, sin = self.module(self.like, places)
            half = sin.shape[-1] // 2
            self.cos, self.sin = cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)[:, None]
        return self.cos[positions], self.sin[positions]
