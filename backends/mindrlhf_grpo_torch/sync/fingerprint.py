"""A digest of weights that trainer and engine compute apart and compare after every sync.

It reads every bit of every tensor with two integer reductions (memory speed, independent of the order of
summation), so any changed element, any exchange of rows and any exchange of columns shows. Tensors are
named and shaped as Hugging Face names them: an engine that fuses weights passes views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 2**64 / golden ratio as int64: consecutive multiples differ in all bits


def fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest over names, shapes, dtypes and bits; the order of the tensors does not matter."""
    names: list[str] = []
    sums: list[Tensor] = []
    for name, tensor in named_tensors:
        names.append(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}")
        sums.append(checksum(tensor.detach()).cpu())
    digest = hashlib.sha256()
    for name, pair in sorted(zip(names, (pair.tolist() for pair in sums), strict=True)):
        digest.update(f"{name}|{pair[0]}|{pair[1]}\n".encode())
    return digest.hexdigest()


def checksum(tensor: Tensor) -> Tensor:
    """Two int64 sums over the raw bits ``[2]``: rows weighted by their place, columns by theirs."""
    bits = raw_bits(tensor)
    rows = bits.sum(1, dtype=torch.int32).to(torch.int64)
    columns = bits.sum(0, dtype=torch.int32).to(torch.int64)
    return torch.stack([(rows * place_weights(rows)).sum(), (columns * place_weights(columns)).sum()])


def raw_bits(tensor: Tensor) -> Tensor:
    """The tensor's bits as an int32 matrix; how it is cut depends on shape and dtype only, never on strides."""
    matrix = (tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)).contiguous()
    if matrix.shape[1] * matrix.element_size() % 4 == 0:
        aligned = matrix.storage_offset() * matrix.element_size() % 4 == 0
        return (matrix if aligned else matrix.clone()).view(torch.int32)
    return matrix.view({1: torch.int8, 2: torch.int16}[matrix.element_size()]).to(torch.int32)


def place_weights(sums: Tensor) -> Tensor:
    """An odd int64 weight for every place, wrapping around."""
    place = torch.arange(1, len(sums) + 1, dtype=torch.int64, device=sums.device)
    return (place * GOLDEN) | 1
