"""Operations of the decoder, each with a reference built from operations that CPU and Ascend both have.

At start-up ``choose_kernels`` compares the device's own kernels with the references and uses those that agree;
``kernels`` lists the implementation in use for each operation, with the reason where a kernel is not. Until then the
references are used.
Legend: S tokens, E hidden size, H query heads, K key/value heads, D size of a query or key, Dv of a value, B rows,
T queries and W keys of a row, I inner size, X experts, N experts of a token.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore import ops as native

from mindrlhf_grpo.backend import CompileLog

from .graph import Compiled
from .portable_ops import RECOMPUTED, REFERENCE, Operation

LEAST_NORM = 1e-30  # an output of zeros is compared as it is
TOLERANCE = {ms.float32: 1e-4, ms.bfloat16: 0.02, ms.float16: 0.005}  # relative norm of the difference


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[S, in]``, ``[out, in]`` -> ``[S, out]``."""
    product = native.MatMul(False, True)(x, weight)  # its gradient transposes nothing, unlike that of dense
    return product if bias is None else product + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float, recomputed: bool = False) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension; ``recomputed``: the calling cell is recomputed in the backward pass."""
    if recomputed:
        return CHOSEN_RECOMPUTED["rms_norm"](x, weight, eps)
    return CHOSEN["rms_norm"](x, weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate the pairs of ``[S, H, D]`` by ``cos``, ``sin`` ``[S, 1, D / 2]``.

    Interleaved pairs may come out as halves: queries and keys share this permutation, so scores do not change.
    """
    return CHOSEN["rotate"](x, cos, sin, interleaved)


def swiglu(gate: Tensor, up: Tensor, recomputed: bool = False) -> Tensor:
    """silu(gate) * up, https://arxiv.org/abs/2002.05202; ``recomputed``: the calling cell is recomputed in the backward pass."""
    if recomputed:
        return CHOSEN_RECOMPUTED["swiglu"](gate, up)
    return CHOSEN["swiglu"](gate, up)


def softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """``[B, T, H, D]``, ``[B, W, K, D]``, ``[B, W, K, Dv]`` -> ``[B, T, H, Dv]``.

    Args:
        bias: ``[B or 1, 1, T, W]``: 0 where a query sees a key, very negative where it does not.
    """
    return CHOSEN["softmax_attention"](queries, keys, values, bias, scale)


def experts(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """Sum over a token's experts of share * down(silu(gate(x)) * up(x)).

    Args:
        x: ``[S, E]``.
        gate_up: ``[X, 2 I, E]``, the gate first.
        down: ``[X, E, I]``.
        chosen: ``[S, N]`` int32, experts of each token.
        shares: ``[S, N]``.
    """
    return CHOSEN["experts"](x, gate_up, down, chosen, shares)


# Arguments whose gradients are used. No weight lies behind the others, and kernels return zeros for them or nothing.
DIFFERENTIATED: dict[str, tuple[int, ...]] = {
    "rms_norm": (0, 1),
    "rotate": (0,),
    "swiglu": (0, 1),
    "softmax_attention": (0, 1, 2),
    "experts": (0, 1, 2, 4),
}
CHOSEN: dict[str, Operation] = dict(REFERENCE)
CHOSEN_RECOMPUTED: dict[str, Operation] = dict(RECOMPUTED)
REFUSED: dict[str, str] = {}  # operation -> why its kernel is not used


def kernels() -> dict[str, str]:
    """The implementation of each operation: the kernel's name, or ``reference``, with the reason where a kernel failed."""
    reasons = {name: f" ({why})" for name, why in REFUSED.items()}
    return {
        name: f"reference{reasons.get(name, '')}" if CHOSEN[name] is REFERENCE[name] else CHOSEN[name].__name__
        for name in CHOSEN
    }


def choose_kernels(device: str, dtype: str) -> dict[str, str]:
    """Use every kernel of the device that exists, runs and agrees with its reference; return ``kernels()``.

    Call it after the device is set and before anything is compiled.
    """
    CHOSEN.update(REFERENCE)
    CHOSEN_RECOMPUTED.update(RECOMPUTED)
    REFUSED.clear()
    if device == "npu":
        from .ascend_kernels import KERNELS

        refusals = {name: refusal(name, kernel, dtype) for name, kernel in KERNELS.items()}
        REFUSED.update({name: why for name, why in refusals.items() if why})
        taken = {name: kernel for name, kernel in KERNELS.items() if name not in REFUSED}
        CHOSEN.update(taken)
        CHOSEN_RECOMPUTED.update({name: taken[name] for name in set(taken) & set(RECOMPUTED)})
    return kernels()


def refusal(name: str, kernel: Operation, dtype: str) -> str:
    """Why a kernel is not used: it has no such type, does not run, or differs from the reference on random numbers.

    Empty if it runs and gives the reference's values and the gradients that are used.
    """
    from .ascend_kernels import without_float32

    if dtype == "float32" and without_float32(name):
        return "the kernel has no float32"
    arguments, constants = example(name, getattr(ms, dtype))
    try:
        found = differentiated(kernel, arguments, constants, DIFFERENTIATED[name])
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # what MindSpore raises for a kernel it lacks
        return f"{kernel.__name__} does not run: {first_line(error)}"
    expected = differentiated(REFERENCE[name], arguments, constants, DIFFERENTIATED[name])
    outputs = ("value", *(f"gradient {place}" for place in DIFFERENTIATED[name]))
    for output, one, other in zip(outputs, found, expected, strict=True):
        if one.shape != other.shape:
            return f"{kernel.__name__}: {output} has shape {one.shape}, the reference's {other.shape}"
        if not (difference := relative(one, other)) <= TOLERANCE[other.dtype]:
            return f"{kernel.__name__}: {output} differs by {difference:.1e}, accepted {TOLERANCE[other.dtype]:g}"
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error, which in MindSpore says what is missing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def differentiated(
    operation: Operation, arguments: tuple[Tensor, ...], constants: tuple[Any, ...], places: tuple[int, ...]
) -> list[Tensor]:
    """Value, and gradients of its weighted sum by the arguments at ``places``; compiled, as in use.

    It is not run eagerly: an error in an eager gradient leaves MindSpore recording, and later functions fail.
    """

    def weighted(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        value = operation(*tensors, *constants)
        return (native.cos(value.astype(ms.float32)) * value.astype(ms.float32)).sum(), value

    probe = Compiled("kernel probe", ms.value_and_grad(weighted, places, None, has_aux=True), CompileLog())
    (_, value), gradients = probe(*arguments)
    return [value, gradients] if len(places) == 1 else [value, *gradients]


def relative(one: Tensor, other: Tensor) -> float:
    """The norm of the difference over the norm of ``other``, in float32."""
    left, right = (tensor.astype(ms.float32).asnumpy() for tensor in (one, other))
    return float(np.linalg.norm(left - right) / max(float(np.linalg.norm(right)), LEAST_NORM))


def example(name: str, dtype: ms.Type) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Random tensors and constants as arguments of an operation; masks and experts' shares are float32, as in use."""
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> Tensor:
        return Tensor(random.standard_normal(shape).astype(np.float32)).astype(dtype)

    if name == "rms_norm":
        return (numbers(16, 64), numbers(64)), (1e-6,)
    if name == "rotate":
        return (numbers(16, 4, 64), numbers(16, 1, 32), numbers(16, 1, 32)), (False,)
    if name == "swiglu":
        return (numbers(16, 64), numbers(16, 64)), ()
    if name == "softmax_attention":
        bias = Tensor(np.triu(np.full((1, 1, 16, 16), -1e9, np.float32), 1))
        return (numbers(2, 16, 4, 64), numbers(2, 16, 2, 64), numbers(2, 16, 2, 64), bias), (0.125,)
    chosen = np.argsort(random.random((16, 8)), axis=1)[:, :2]
    return (
        numbers(16, 64), numbers(8, 64, 64) / 8, numbers(8, 64, 32) / 8, Tensor(chosen.astype(np.int32)),
        Tensor(random.random((16, 2)).astype(np.float32)),
    ), ()  # fmt: skip
