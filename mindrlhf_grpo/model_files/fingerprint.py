"""The digest of a model's weights that trainer and engine compute separately and compare after every sync.

Two integer sums read every bit of every tensor, independently of the order of summation, so any changed element, any
exchange of rows and any exchange of columns shows. Tensors are named and shaped as Hugging Face names them. A backend
may compute the sums on its device; the digest over them is defined here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RunFailed

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: consecutive multiples differ in all bits
DTYPE_NOTATION = "torch.{}"  # how saved digests have always written a dtype; another notation would change them all


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorChecksum:
    """The facts about one tensor that enter the digest.

    Attributes:
        dtype: the plain name of the type, such as ``float32``.
        rows, columns: int64 sums over the raw bits, rows weighted by their place, and columns by theirs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: int
    columns: int


def digest(checksums: Iterable[TensorChecksum]) -> str:
    """Hex digest over names, shapes, dtypes and sums; the order of the tensors does not matter."""
    lines = sorted(
        f"{tensor.name}|{tensor.shape}|{DTYPE_NOTATION.format(tensor.dtype)}|{tensor.rows}|{tensor.columns}\n"
        for tensor in checksums
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fingerprint(named_arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """Hex digest of NumPy arrays by name."""
    return digest(checksum(name, array) for name, array in named_arrays)


def check_synced(name: str, *, engine: str, policy: str) -> None:
    """Check that the digests of one weight agree after a weight sync.

    Raises:
        RunFailed: they differ.
    """
    if engine != policy:
        raise RunFailed(
            f"weight {name} differs between engine and policy after the sync "
            f"(fingerprints {engine[:12]} and {policy[:12]})"
        )


def unknown_weight(name: str) -> RunFailed:
    """The error for a weight of the policy that the engine does not have."""
    return RunFailed(f"weight {name} of the policy is unknown to the engine")


def checksum(name: str, array: NDArray[Any]) -> TensorChecksum:
    """The two sums of one array."""
    bits = raw_bits(array)
    sums = (bits.sum(1, dtype=np.int32), bits.sum(0, dtype=np.int32))
    rows, columns = ((total.astype(np.int64).view(np.uint64) * place_weights(len(total))).sum() for total in sums)
    return TensorChecksum(
        name=name,
        shape=tuple(array.shape),
        dtype=str(array.dtype),
        rows=int(rows.view(np.int64)),
        columns=int(columns.view(np.int64)),
    )


def raw_bits(array: NDArray[Any]) -> NDArray[np.signedinteger[Any]]:
    """The array's bits as an integer matrix; how it is cut depends on shape and dtype only."""
    matrix = np.ascontiguousarray(array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1))
    if matrix.shape[1] * matrix.itemsize % 4 == 0:
        return matrix.view(np.int32)
    return matrix.view({1: np.int8, 2: np.int16}[matrix.itemsize]).astype(np.int32)


def place_weights(length: int) -> NDArray[np.uint64]:
    """An odd weight for every place, wrapping around."""
    return (np.arange(1, length + 1, dtype=np.uint64) * GOLDEN) | np.uint64(1)
