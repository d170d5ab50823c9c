"""A digest of weights that trainer and engine compute apart and compare after every sync; the same as torch's.

It reads every bit of every tensor with two integer sums (independent of the order of summation), so any changed
element, any exchange of rows and any exchange of columns shows. Tensors are named and shaped as Hugging Face names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: consecutive multiples differ in all bits


def fingerprint(named_tensors: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """Hex digest over names, shapes, dtypes and bits; the order of the tensors does not matter."""
    lines = []
    for name, array in named_tensors:
        rows, columns = checksum(array)
        lines.append(f"{name}|{tuple(array.shape)}|torch.{array.dtype}|{rows}|{columns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def checksum(array: NDArray[Any]) -> tuple[int, int]:
    """Two int64 sums over the raw bits: rows weighted by their place, columns by theirs."""
    bits = raw_bits(array)
    sums = (bits.sum(1, dtype=np.int32), bits.sum(0, dtype=np.int32))
    rows, columns = ((total.astype(np.int64).view(np.uint64) * place_weights(len(total))).sum() for total in sums)
    return int(rows.view(np.int64)), int(columns.view(np.int64))


def raw_bits(array: NDArray[Any]) -> NDArray[np.signedinteger[Any]]:
    """The array's bits as an integer matrix; how it is cut depends on shape and dtype only."""
    matrix = np.ascontiguousarray(array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1))
    if matrix.shape[1] * matrix.itemsize % 4 == 0:
        return matrix.view(np.int32)
    return matrix.view({1: np.int8, 2: np.int16}[matrix.itemsize]).astype(np.int32)


def place_weights(length: int) -> NDArray[np.uint64]:
    """An odd weight for every place, wrapping around."""
    return (np.arange(1, length + 1, dtype=np.uint64) * GOLDEN) | np.uint64(1)
