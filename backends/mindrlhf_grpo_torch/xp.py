"""The array namespace of ``mindrlhf_grpo.losses.xp`` over torch tensors: same names, same meanings.

Plain functions in a module, so that a loss written over ``xp`` compiles and differentiates like torch code.
"""

from __future__ import annotations

import torch
from torch import Tensor, exp, isfinite, log, logaddexp, maximum, minimum, ones_like, sign, sqrt, square, zeros_like

__all__ = [
    "abs", "clip", "exp", "isfinite", "log", "logaddexp", "max", "maximum", "mean", "minimum", "ones_like", "sign",
    "sqrt", "square", "stop_gradient", "sum", "where", "zeros_like",
]  # fmt: skip


def abs(x: Tensor) -> Tensor:
    return torch.abs(x)


def clip(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return torch.clamp(x, min=low, max=high)


def max(x: Tensor) -> Tensor:
    """Largest element, 0 if there is none."""
    return torch.amax(x) if x.numel() else x.new_zeros(())


def mean(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return torch.mean(x) if axis is None else torch.mean(x, dim=axis, keepdim=keepdims)


def sum(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return torch.sum(x) if axis is None else torch.sum(x, dim=axis, keepdim=keepdims)


def stop_gradient(x: Tensor) -> Tensor:
    return x.detach()


def where(mask: Tensor, x: Tensor, other: Tensor | float) -> Tensor:
    return torch.where(mask, x, other)
