"""The array namespace that losses are written over, and its NumPy form: this module itself.

A backend has a twin of it (``xp.py``): a module of plain functions with these names and meanings, over its
own tensors. The list stays short because logits never enter the core: a loss sees log-probs ``[N, T]``.
A conformance test runs every name of ``NAMES`` in each twin against this one.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy import (
    abs,
    clip,
    exp,
    isfinite,
    log,
    logaddexp,
    maximum,
    mean,
    minimum,
    ones_like,
    sign,
    sqrt,
    square,
    sum,
    where,
    zeros_like,
)

# minimum and maximum take two arrays (a bound that is a number is clip's work); where takes (mask, array, number);
# sum and mean take axis= and keepdims=.
NAMES = (
    "abs", "clip", "exp", "isfinite", "log", "logaddexp", "max", "maximum", "mean", "minimum", "ones_like", "sign",
    "sqrt", "square", "stop_gradient", "sum", "where", "zeros_like",
)  # fmt: skip

__all__ = [
    "NAMES", "NUMPY", "abs", "clip", "exp", "isfinite", "log", "logaddexp", "max", "maximum", "mean", "minimum",
    "ones_like", "sign", "sqrt", "square", "stop_gradient", "sum", "where", "zeros_like",
]  # fmt: skip


def max(x: Any) -> Any:
    """Largest element, 0 if there is none."""
    return np.max(x) if x.size else x.dtype.type(0)


def stop_gradient(x: Any) -> Any:
    """The same values, held constant in differentiation."""
    return x


NUMPY: Any = sys.modules[__name__]
