"""Initial LoRA adapters: the numbers that peft draws, so that every backend starts from the same ones.

peft fills A twice (as a linear layer, then as an adapter) and B once before zeroing it, each uniformly within
1 / sqrt(inputs); each 32-bit number of the Mersenne Twister becomes one float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MANTISSA_BITS = 24


def draw_adapters(modules: Mapping[str, tuple[int, ...]], rank: int, seed: int) -> Iterator[tuple[str, Floats, Floats]]:
    """(module, A ``[rank, in]``, B ``[out, rank]``) for modules of shape ``(out, in)``; B is zero."""
    stream = np.random.RandomState(seed & 0xFFFFFFFF)
    for module, (outputs, inputs) in modules.items():
        draw_unit(stream, rank * inputs + outputs * rank)
        unit = draw_unit(stream, rank * inputs).reshape(rank, inputs).astype(np.float64)
        bound = float(np.float32(1 / np.sqrt(inputs)))
        a = (unit * (2 * bound) - bound).astype(np.float32)  # rounded once, as a fused multiply-add does
        yield module, a, np.zeros((outputs, rank), np.float32)


def draw_unit(stream: np.random.RandomState, count: int) -> Floats:
    """Uniform numbers in [0, 1) of 24 random bits each."""
    bits = stream.randint(0, 2**32, count, dtype=np.uint32) & np.uint32((1 << MANTISSA_BITS) - 1)
    return bits.astype(np.float32) * np.float32(2.0**-MANTISSA_BITS)
