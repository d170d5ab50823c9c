"""The checksums of ``mindrlhf_grpo.model_files.fingerprint``, computed where the tensors lie.

Two integer reductions run at memory speed on any device; only the sums reach the host. An engine that fuses weights
passes views under their Hugging Face names.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mindrlhf_grpo.model_files.fingerprint import TensorChecksum, digest

GOLDEN = -7046029254386353131  # fingerprint.GOLDEN as int64


def fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest over names, shapes, dtypes and bits; the order of the tensors does not matter."""
    return digest(tensor_checksum(name, tensor.detach()) for name, tensor in named_tensors)


def tensor_checksum(name: str, tensor: Tensor) -> TensorChecksum:
    """The facts about one tensor that enter the digest; the tensor itself is not kept."""
    rows, columns = checksum(tensor).tolist()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorChecksum(name=name, shape=tuple(tensor.shape), dtype=dtype, rows=rows, columns=columns)


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
