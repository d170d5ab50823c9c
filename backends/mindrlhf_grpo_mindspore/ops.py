"""Operations of the decoder: each with a reference made of operations proven on CPU and present on Ascend.

Where the device has a kernel for one, ``choose_kernels`` takes it; ``kernels`` says which serves what.
Legend: S tokens, E hidden size, H heads, K key/value heads, D head size, F inner size, X experts.
"""

from __future__ import annotations

from mindspore import Tensor, mint
from mindspore import ops as native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[S, in]``, ``[out, in]`` -> ``[S, out]``."""
    return native.dense(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension."""
    return x * native.rsqrt(mint.mean(native.square(x), -1, True) + eps) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Turn the pairs of ``[S, H, D]`` by ``cos``, ``sin`` ``[S, 1, D / 2]``.

    Interleaved pairs come out as halves: a permutation that queries and keys share, so scores stay.
    """
    if interleaved:
        first, second = x[:, :, 0::2], x[:, :, 1::2]
    else:
        half = x.shape[2] // 2
        first, second = x[:, :, :half], x[:, :, half:]
    return native.cat((first * cos - second * sin, second * cos + first * sin), -1)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, https://arxiv.org/abs/2002.05202."""
    return native.silu(gate) * up
