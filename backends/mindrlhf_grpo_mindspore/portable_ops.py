"""Reference implementations of the operations in ``ops``: available on CPU and Ascend, and fast on CPU.

On CPU elementwise kernels cost most, above all those that broadcast. So columns are tiled, rows broadcast once (equal
nodes of a graph are merged), and two backward passes are written by hand. These call primitives only: MindSpore 2.10
fails on functions that wrap one.
Legend as in ``ops``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import Tensor, mint, nn
from mindspore import ops as native

Operation = Callable[..., Any]
TILE = native.Tile()


class RmsNormReference(nn.Cell):
    """RMSNorm, in float32 up to the weight; the backward pass keeps only the input."""

    def construct(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self.normed(x, eps).astype(x.dtype) * native.broadcast_to(weight, x.shape)

    def normed(self, x: Tensor, eps: float) -> Tensor:
        wide = x.astype(ms.float32)
        return wide * self.scale(wide, eps)

    def scale(self, x: Tensor, eps: float) -> Tensor:
        return self.widened(native.rsqrt(mint.mean(x * x, -1, True) + eps), x)

    def widened(self, column: Tensor, x: Tensor) -> Tensor:
        """Repeat one number per row to the shape of ``x``."""
        return TILE(column, (1,) * (x.ndim - 1) + (x.shape[-1],))

    def bprop(self, x: Tensor, weight: Tensor, eps: float, out: Tensor, dout: Tensor) -> tuple[Any, ...]:
        wide, slope = x.astype(ms.float32), dout.astype(ms.float32)
        scale = self.scale(wide, eps)
        normed = wide * scale
        to_normed = slope * native.broadcast_to(weight.astype(ms.float32), x.shape)
        along = self.widened(mint.mean(to_normed * normed, -1, True), x)
        to_x = (to_normed - normed * along) * scale
        to_weight = (slope * normed).reshape(-1, x.shape[-1]).sum(0)
        return to_x.astype(x.dtype), to_weight.astype(weight.dtype), 0.0


class SwigluReference(nn.Cell):
    """SwiGLU; the backward pass keeps gate and up."""

    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        return gate * native.sigmoid(gate) * up

    def bprop(self, gate: Tensor, up: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        opened = native.sigmoid(gate)
        active = gate * opened
        return dout * up * (opened + active - active * opened), dout * active


reference_rms_norm, reference_swiglu = RmsNormReference(), SwigluReference()


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.astype(ms.float32)
    return (wide * native.rsqrt(mint.mean(native.square(wide), -1, True) + eps)).astype(x.dtype) * weight


def plain_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return native.silu(gate) * up


def reference_rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    half = x.shape[2] // 2
    if interleaved:
        pairs = x.reshape(x.shape[0], x.shape[1], half, 2)
        first, second = pairs[:, :, :, 0], pairs[:, :, :, 1]
        x = native.cat((first, second), -1)
    else:
        first, second = native.split(x, half, 2)
    both = native.broadcast_to(native.cat((cos, cos), -1), x.shape)
    signed = native.broadcast_to(native.cat((-sin, sin), -1), x.shape)
    return x * both + native.cat((second, first), -1) * signed


def reference_softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    rows, length, heads, size = queries.shape
    width, kv_heads, value_size = keys.shape[1], keys.shape[2], values.shape[3]
    group = heads // kv_heads  # query heads of one key head become more queries of it: keys are not repeated
    queries = queries.reshape(rows, length, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    queries = queries.reshape(rows, kv_heads, group * length, size)
    scores = native.matmul(queries, keys.transpose(0, 2, 3, 1)) * scale
    scores = scores.reshape(rows, kv_heads, group, length, width).astype(ms.float32) + bias.expand_dims(1)
    shares = native.softmax(scores, -1).reshape(rows, kv_heads, group * length, width).astype(values.dtype)
    mixed = native.matmul(shares, values.transpose(0, 2, 1, 3)).reshape(rows, kv_heads, group, length, value_size)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads, value_size)


def reference_experts(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """Every expert for every token, weighted by its share or 0: exact, of static shape, X / N times the work."""
    count, double, hidden = gate_up.shape
    inner = double // 2
    placed = native.one_hot(chosen, count, 1, 0).astype(shares.dtype)
    share_of_expert = (placed * shares.expand_dims(-1)).sum(1)
    both = native.dense(x, gate_up.reshape(count * double, hidden)).reshape(-1, count, double)
    active = plain_swiglu(both[:, :, :inner], both[:, :, inner:]) * share_of_expert.expand_dims(-1).astype(x.dtype)
    return native.dense(active.reshape(-1, count * inner), down.transpose(1, 0, 2).reshape(hidden, count * inner))


# MindSpore 2.10 finds cycles in graphs that recompute cells whose backward pass is written by hand.
RECOMPUTED: dict[str, Operation] = {"rms_norm": plain_rms_norm, "swiglu": plain_swiglu}
REFERENCE: dict[str, Operation] = {
    "rms_norm": reference_rms_norm,
    "rotate": reference_rotate,
    "swiglu": reference_swiglu,
    "softmax_attention": reference_softmax_attention,
    "experts": reference_experts,
}
