"""Attention in generation: one token per slot over the KV cache, and prompts whose keys and values are stored.

Both are the ``attend`` of a ``models.Decoder``.
Legend: n rows (slots ``0..n-1``), H query heads, K key/value heads, R = H / K, D and Dv head sizes, L places of a
slot, S tokens of a batch of prompts, B rows of it.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.architecture import Architecture

from .. import ops
from .kv_cache import Bucket

UNSEEN = -1e9  # added to scores; its exponential is 0


class SlotAttention(nn.Cell):
    """Attention of every slot's last token over the slot's keys and values; its own are written first.

    The plan is (rows of the cache that are written ``[n * K]`` int32, bias ``[n * K, 1, L]``).
    """

    def __init__(self, architecture: Architecture, bucket: Bucket, rows: int) -> None:
        super().__init__(auto_prefix=False)
        self.rows, self.length, self.heads = rows, bucket.length, architecture.kv_heads
        self.group = architecture.heads // architecture.kv_heads
        self.scale = architecture.attention_scale
        self.written = ParameterTuple(bucket.places)
        views = bucket.rows(rows)
        self.shared = views is not None
        self.read = ParameterTuple(views or bucket.places)
        self.scores = native.BatchMatMul(transpose_b=True)
        self.mix = native.BatchMatMul()
        self.lanes = Tensor((np.arange(rows * self.heads) * self.length).astype(np.int32))
        self.places = Tensor(np.arange(self.length, dtype=np.int32)[None, None])

    def plan(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The plan for tokens at the positions ``[n]`` of their slots."""
        of_lane = native.tile(positions.reshape(self.rows, 1), (1, self.heads)).reshape(-1)
        bias = (self.places > of_lane.reshape(-1, 1, 1)).astype(ms.float32) * UNSEEN
        return self.lanes + of_lane, bias

    def construct(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[n, H, D]``, ``[n, K, D]``, ``[n, K, Dv]`` -> ``[n, H, Dv]``."""
        places, bias = plan
        stored_keys = self.store(2 * layer, keys, places)
        stored_values = self.store(2 * layer + 1, values, places)
        grouped = queries.reshape(self.rows * self.heads, self.group, queries.shape[2]) * self.scale
        shares = native.softmax(self.scores(grouped, stored_keys).astype(ms.float32) + bias, -1).astype(values.dtype)
        return self.mix(shares, stored_values).reshape(self.rows, self.heads * self.group, values.shape[2])

    def store(self, part: int, tokens: Tensor, places: Tensor) -> Tensor:
        """Write ``[n, K, D]``; return the contents of the slots ``[n * K, L, D]``."""
        lanes, size = self.rows * self.heads, tokens.shape[2]
        written = native.scatter_update(self.written[part], places, tokens.reshape(lanes, size))
        if self.shared:
            return native.depend(self.read[part], written)
        return written[: lanes * self.length].reshape(lanes, self.length, size)


class PromptAttention(nn.Cell):
    """Attention in rows of equal width; the plan is their bias ``[B or 1, 1, S / B, S / B]``.

    Args:
        rows: B.
        stored: for each layer a parameter ``[S, K, D]`` and ``[S, K, Dv]`` that takes keys and values; empty: none.
    """

    def __init__(self, architecture: Architecture, rows: int, stored: list[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.scale, self.rows, self.stores = architecture.attention_scale, rows, bool(stored)
        self.stored: Any = ParameterTuple(stored) if stored else None  # not read without any

    def construct(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[S, H, D]``, ``[S, K, D]``, ``[S, K, Dv]`` -> ``[S, H, Dv]``."""
        if self.stores:
            native.assign(self.stored[2 * layer], keys)
            native.assign(self.stored[2 * layer + 1], values)
        mixed = ops.softmax_attention(self.cut(queries), self.cut(keys), self.cut(values), plan[0], self.scale)
        return mixed.reshape(queries.shape[0], queries.shape[1], values.shape[2])

    def cut(self, tokens: Tensor) -> Tensor:
        """``[S, H, D]`` -> ``[B, S / B, H, D]``."""
        return tokens.reshape(self.rows, tokens.shape[0] // self.rows, tokens.shape[1], tokens.shape[2])


def segment_bias(segments: Tensor) -> Tensor:
    """Bias ``[1, 1, S, S]`` of sequences laid one after another: a token sees earlier ones of its segment.

    Args:
        segments: number of each token's sequence ``[S]``.
    """
    places = native.arange(segments.shape[0])
    hidden = native.logical_or(
        segments.reshape(-1, 1) != segments.reshape(1, -1), places.reshape(-1, 1) < places.reshape(1, -1)
    )
    return (hidden.astype(ms.float32) * UNSEEN).expand_dims(0).expand_dims(0)


def causal_bias(width: int) -> Tensor:
    """Bias ``[1, 1, W, W]``: a token sees itself and earlier ones."""
    return Tensor(np.triu(np.full((1, 1, width, width), UNSEEN, np.float32), 1))
