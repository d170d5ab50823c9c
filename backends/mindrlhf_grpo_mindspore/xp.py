"""The array namespace of ``mindrlhf_grpo.losses.xp`` over MindSpore tensors: same names, same meanings.

Plain functions in a module, so that a loss written over ``xp`` compiles and differentiates like the decoder. Each
operation is one that CPU and Ascend have.
"""

from __future__ import annotations

from mindspore import Tensor, ops

__all__ = [
    "abs", "clip", "exp", "isfinite", "log", "logaddexp", "max", "maximum", "mean", "minimum", "ones_like", "sign",
    "sqrt", "square", "stop_gradient", "sum", "where", "zeros_like",
]  # fmt: skip


def abs(x: Tensor) -> Tensor:
    return ops.abs(x)


def clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return ops.clamp(x, low, high)


def exp(x: Tensor) -> Tensor:
    return ops.exp(x)


def isfinite(x: Tensor) -> Tensor:
    return ops.isfinite(x)


def log(x: Tensor) -> Tensor:
    return ops.log(x)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """log(exp(x) + exp(y)); two equal infinities are not subtracted, which would give NaN."""
    top = ops.stop_gradient(ops.maximum(x, y))
    shift = ops.select(ops.isfinite(top), top, ops.zeros_like(top))
    return ops.log(ops.exp(x - shift) + ops.exp(y - shift)) + shift


def max(x: Tensor) -> Tensor:
    """Largest element, 0 if there is none."""
    if x.size == 0:
        return ops.zeros((), x.dtype)
    return ops.amax(x)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return ops.maximum(x, y)


def mean(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return ops.mean(x, axis, keepdims)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    return ops.minimum(x, y)


def ones_like(x: Tensor) -> Tensor:
    return ops.ones_like(x)


def sign(x: Tensor) -> Tensor:
    return ops.sign(x)


def sqrt(x: Tensor) -> Tensor:
    return ops.sqrt(x)


def square(x: Tensor) -> Tensor:
    return ops.square(x)


def stop_gradient(x: Tensor) -> Tensor:
    return ops.stop_gradient(x)


def sum(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return ops.sum(x, axis, keepdims)


def where(mask: Tensor, x: Tensor, other: Tensor | float) -> Tensor:
    return ops.where(mask, x, other)


def zeros_like(x: Tensor) -> Tensor:
    return ops.zeros_like(x)
