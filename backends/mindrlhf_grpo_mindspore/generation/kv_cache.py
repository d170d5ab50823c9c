"""Keys and values of the completions being decoded: parameters that compiled steps write in place.

A token's place in its slot is its position in the sequence, whatever its neighbours do. Length comes in buckets;
growing copies everything once. On the CPU there are two workarounds for MindSpore. A reshape copies, so the memory that
is written one token at a time ``[S * K * L, D]`` is read through a second parameter ``[n * K, L, D]`` over the same
memory. A compiled function never frees its parameters' memory, so that memory is mapped by this module, taken when
touched, and ``release`` returns its pages. Unused places hold finite numbers: they are masked, and a masked NaN
would still spoil a sum.
Legend: S slots, n rows (slots ``0..n-1``), K heads, L places, D head size, P prompt tokens.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops
from numpy.typing import NDArray

LEAST = 128  # places of the shortest bucket; each longer one doubles them
NUMBERS = count()  # parameters of one graph need different names

Array = NDArray[Any]


def bucket(length: int, least: int = LEAST) -> int:
    """The shortest bucket, ``least`` times a power of two, that holds a length."""
    while least < length:
        least *= 2
    return least


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """Keys and values of a prompt for its samples: ``parts`` of ``[K, P, D]``, in the order of ``SlotCache``."""

    parts: tuple[Array | Tensor, ...]

    @property
    def length(self) -> int:
        return int(self.parts[0].shape[1])


class SlotCache:
    """A list of parts, for each layer its keys and its values; ``[S, K, L, D]``.

    Args:
        shapes: (K, D) of each part.
        slots: S.
        shared: reads go through parameters over the same memory (CPU); else through a reshape in the graph.

    Attributes:
        length: L of the bucket in use; 0 before the first.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], slots: int, dtype: ms.Type, *, shared: bool) -> None:
        self.shapes, self.slots, self.dtype, self.shared = tuple(shapes), slots, dtype, shared
        self.length = 0
        self.buckets: dict[int, Bucket] = {}

    @property
    def nbytes(self) -> int:
        """Memory of the bucket in use, if all of it were touched."""
        numbers = sum(self.slots * heads * self.length * size for heads, size in self.shapes)
        return numbers * (4 if self.dtype == ms.float32 else 2)

    @property
    def current(self) -> Bucket:
        return self.buckets[self.length]

    def reset(self) -> None:
        """Forget every sequence."""
        self.length = 0

    def reserve(self, length: int) -> None:
        """Make room for sequences of this many tokens."""
        if length <= self.length:
            return
        before, self.length = self.buckets.get(self.length), bucket(length)
        if self.length not in self.buckets:
            kind = HostBucket if self.shared else DeviceBucket
            self.buckets[self.length] = kind(self.shapes, self.slots, self.length, self.dtype)
        if before is not None:
            self.current.copy(before)
            before.release()

    def fork(self, prompt: PromptCache, slots: Sequence[int]) -> None:
        """Start samples: copy their prompt's keys and values into their slots."""
        self.reserve(prompt.length)
        for part, source in enumerate(prompt.parts):
            self.current.write(part, slots, source)

    def move(self, source: int, target: int) -> None:
        """Continue the sequence of one slot in another."""
        for part in range(len(self.shapes)):
            self.current.write(part, [target], self.current.slot(part, source))

    def release(self) -> None:
        """Forget every sequence and free the memory."""
        for held in self.buckets.values():
            held.release()
        self.length = 0


class DeviceBucket:
    """Parts of one length in parameters' own memory, written and read by operations of the device."""

    def __init__(self, shapes: Sequence[tuple[int, int]], slots: int, length: int, dtype: ms.Type) -> None:
        self.shapes, self.slots, self.length = tuple(shapes), slots, length
        self.places = [
            Parameter(mint.zeros((slots * heads * length, size), dtype=dtype), name=new_name(), requires_grad=False)
            for heads, size in shapes
        ]

    def rows(self, rows: int) -> list[Parameter] | None:
        """Parameters ``[n * K, L, D]`` over the memory that is written; None: reshape the written ones."""
        return None

    def slot(self, part: int, slot: int) -> Tensor:
        """``[K, L, D]``."""
        heads, size = self.shapes[part]
        return self.places[part].view(self.slots, heads, self.length, size)[slot]

    def write(self, part: int, slots: Sequence[int], values: Tensor | Array) -> None:
        """Store ``[K, P, D]`` in the first places of each of the slots."""
        heads, size = self.shapes[part]
        width = values.shape[1]
        lanes = (np.array(slots)[:, None] * heads + np.arange(heads)).reshape(-1, 1) * self.length
        flat = ops.reshape(Tensor(values), (1, heads * width, size))
        ops.scatter_update(
            self.places[part],
            Tensor((lanes + np.arange(width)).ravel().astype(np.int32)),
            ops.tile(flat, (len(slots), 1, 1)).reshape(-1, size),
        )

    def copy(self, shorter: Bucket) -> None:
        """Copy the contents of a shorter bucket."""
        for part in range(len(self.shapes)):
            for slot in range(self.slots):
                self.write(part, [slot], shorter.slot(part, slot))

    def release(self) -> None:
        """Nothing to do: a compiled function keeps its parameters' memory."""


class HostBucket:
    """Parts of one length in mapped host memory, float32, for the CPU target."""

    def __init__(self, shapes: Sequence[tuple[int, int]], slots: int, length: int, dtype: ms.Type) -> None:
        self.length = length
        sizes = [slots * heads * length * size for heads, size in shapes]
        self.memory = mmap.mmap(-1, 4 * sum(sizes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        starts = np.cumsum([0, *sizes])
        numbers = np.frombuffer(self.memory, np.float32)
        self.parts = [
            numbers[start : start + size * slots * heads * length].reshape(slots, heads, length, size)
            for start, (heads, size) in zip(starts, shapes, strict=False)
        ]
        self.places = [parameter_over(part, (-1, part.shape[-1])) for part in self.parts]

    def rows(self, rows: int) -> list[Parameter] | None:
        """Parameters ``[n * K, L, D]`` over the first n slots."""
        return [parameter_over(part[:rows], (-1, *part.shape[2:])) for part in self.parts]

    def slot(self, part: int, slot: int) -> Array:
        """``[K, L, D]``."""
        return self.parts[part][slot]

    def write(self, part: int, slots: Sequence[int], values: Array) -> None:
        """Store ``[K, P, D]`` in the first places of each of the slots."""
        self.parts[part][list(slots), :, : values.shape[1]] = values

    def copy(self, shorter: Bucket) -> None:
        """Copy the contents of a shorter bucket, which is of this kind too."""
        assert isinstance(shorter, HostBucket)
        for part, source in zip(self.parts, shorter.parts, strict=True):
            part[:, :, : source.shape[2]] = source

    def release(self) -> None:
        """Return the pages; they are zeros when touched again."""
        self.memory.madvise(mmap.MADV_DONTNEED)


Bucket = HostBucket | DeviceBucket


def parameter_over(array: Array, shape: tuple[int, ...]) -> Parameter:
    """A parameter in the memory of an array; ``set_data`` works only before anything is compiled."""
    parameter = Parameter(Tensor(np.zeros((1,) * len(shape), array.dtype)), name=new_name(), requires_grad=False)
    parameter.set_data(Tensor.from_numpy(array.reshape(shape)), slice_shape=True)
    if parameter.data_ptr() != array.ctypes.data:
        raise RuntimeError("MindSpore copied the memory of the KV cache instead of sharing it")
    return parameter


def new_name() -> str:
    return f"kv_cache.{next(NUMBERS)}"
