"""Counter-based random numbers: the uniform of a token depends on its coordinates alone.

(seed, prompt uid, sample, position) -> [0, 1). So a completion does not depend on what else is sampled, on
slots, ranks or backend. Integer arithmetic modulo 2**64 and one exact scaling: the same on every platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .types import IntArray

Integers: TypeAlias = int | Sequence[int] | IntArray | NDArray[np.uint64]

WORD = (1 << 64) - 1
# An odd constant for each coordinate keeps (uid, sample) and (sample, uid) apart; the first is SplitMix64's step.
STEPS = tuple(
    np.array([step], np.uint64) for step in (0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0xAEF17502108EF2D9)
)  # fmt: skip


def uniforms(seed: int, uids: Integers, samples: Integers, positions: Integers) -> NDArray[np.float64]:
    """One uniform in [0, 1) for each token ``[n]``, with 53 random bits.

    Each coordinate in turn is multiplied by an odd constant, added to the state, and mixed by the finaliser of
    SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195), a bijection of 64-bit words:
    tokens that differ in one coordinate never share a state.

    Args:
        seed: seed of the run.
        uids: uid of the prompt draw, scalar or ``[n]``. Integers of any size and sign, taken modulo 2**64.
        samples: index in the group, scalar or ``[n]``.
        positions: index of the token in its completion, scalar or ``[n]``.

    Raises:
        TypeError: a coordinate is not an integer.
    """
    state = mix(words(seed) + STEPS[0])
    for step, coordinate in zip(STEPS, (uids, samples, positions), strict=True):
        state = mix(state + (words(coordinate) + np.uint64(1)) * step)
    return np.asarray((state >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


def words(values: Integers) -> NDArray[np.uint64]:
    """Integers modulo 2**64 as at least one-dimensional ``uint64``; arrays do not warn on wrap-around, scalars do."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return np.atleast_1d(values).astype(np.uint64)
    exact = np.atleast_1d(np.asarray(values, dtype=object))  # a list may hold what no NumPy integer does
    if not all(isinstance(value, int | np.integer) for value in exact.flat):
        raise TypeError(f"seed, uids, samples and positions must be integers, not {values!r}")
    return np.asarray([int(value) & WORD for value in exact.flat], dtype=np.uint64).reshape(exact.shape)
