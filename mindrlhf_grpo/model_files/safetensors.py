"""Tensors of safetensors files in NumPy: read one at a time, written in files of bounded size.

The format: https://github.com/huggingface/safetensors. NumPy has no bfloat16: bit patterns are uint16 here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .folder import DTYPE_BYTES, TensorInfo

STORED: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
ALIGNMENT = 8
SHARD_BYTES = 5_000_000_000
FLOAT8, BLOCK = "F8_E4M3", 128  # DeepSeek-V3's 8-bit weights: a factor for each block of 128 x 128


@dataclass(frozen=True, slots=True)
class Stored:
    """The form of a tensor in a file: dtype by safetensors' name (F32, F16, BF16, F64), and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return DTYPE_BYTES[self.dtype] * int(np.prod(self.shape, dtype=np.int64))


def read_tensor(path: Path, info: TensorInfo) -> NDArray[np.float32]:
    """A tensor of a safetensors file in float32; 8-bit weights are multiplied by their block scales.

    Raises:
        CheckpointError: a dtype that is not read here, or block scales of another shape.
    """
    if info.dtype == FLOAT8 and info.scales is not None:
        bits = np.memmap(path, dtype=np.uint8, mode="r", offset=info.start, shape=info.shape)
        return dequantised(bits, read_tensor(path, info.scales))
    stored = np.memmap(path, dtype=stored_type(info.dtype), mode="r", offset=info.start, shape=(info.size,))
    values = from_bfloat16(stored.view(np.uint16)) if info.dtype == "BF16" else stored.astype(np.float32)
    return values.reshape(info.shape)


def read_box(path: Path, info: TensorInfo, box: Sequence[tuple[int, int]] | None = None) -> NDArray[np.float32]:
    """A box (start, stop on every axis) of a tensor of a safetensors file in float32, without reading the rest."""
    if box is None:
        return read_tensor(path, info)
    stored = np.memmap(path, dtype=stored_type(info.dtype), mode="r", offset=info.start, shape=(info.size,))
    part = np.ascontiguousarray(stored.reshape(info.shape)[tuple(slice(start, stop) for start, stop in box)])
    return from_bfloat16(part.view(np.uint16)) if info.dtype == "BF16" else part.astype(np.float32)


def stored_type(dtype: str) -> type[np.generic]:
    """NumPy's type for a dtype by safetensors' name.

    Raises:
        CheckpointError: a dtype that is not read here.
    """
    if dtype not in STORED:
        raise CheckpointError(f"weights of type {dtype} cannot be used; accepted: {', '.join(STORED)}")
    return STORED[dtype]


def as_stored(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values converted to the dtype of a file."""
    if dtype == "BF16":
        return to_bfloat16(np.asarray(values, np.float32))
    return np.ascontiguousarray(values, dtype=stored_type(dtype))


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 bit patterns as float32: they are its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 rounded to bfloat16 bit patterns: to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def dequantised(bits: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """An 8-bit matrix ``[R, C]`` times the factor of each block, ``[ceil(R / 128), ceil(C / 128)]``, in float32.

    The published form of DeepSeek-V3 (https://arxiv.org/abs/2412.19437, section 3.3; ``weight_scale_inv``).

    Raises:
        CheckpointError: scales of another shape.
    """
    expected = tuple(-(-size // BLOCK) for size in bits.shape)
    if bits.ndim != 2 or scales.shape != expected:
        raise CheckpointError(
            f"an 8-bit weight of shape {list(bits.shape)} has block scales {list(scales.shape)}; accepted: "
            f"{list(expected)}, one for each block of {BLOCK} x {BLOCK}"
        )
    values: NDArray[np.float32] = E4M3[bits]
    for row in range(expected[0]):
        rows = values[row * BLOCK : (row + 1) * BLOCK]
        rows *= np.repeat(scales[row], BLOCK)[: bits.shape[1]]
    return values


def _e4m3() -> NDArray[np.float32]:
    """The value of every bit pattern: sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinities."""
    patterns = np.arange(256)
    exponents, mantissas = (patterns >> 3 & 15).astype(np.float32), (patterns & 7).astype(np.float32)
    normal = np.exp2(exponents - 7) * (1 + mantissas / 8)
    values = np.where(patterns & 128, -1, 1) * np.where(exponents > 0, normal, mantissas / 8 * np.float32(2.0**-6))
    return np.where(patterns & 127 == 127, np.nan, values).astype(np.float32)


E4M3 = _e4m3()


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], *, dtype: str = "F32") -> None:
    """Write tensors to one file."""
    plan = {name: Stored(dtype, tuple(values.shape)) for name, values in tensors.items()}
    _write_file(path, plan, tensors.items())


def write_model(
    folder: Path,
    plan: Mapping[str, Stored],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``model.safetensors``, or numbered files with an index where it would exceed ``shard_bytes``.

    ``tensors`` gives the values in the order of ``plan`` and is consumed one by one.
    """
    shards = _shards(plan, shard_bytes)
    values = iter(tensors)
    if len(shards) == 1:
        _write_file(folder / "model.safetensors", plan, values)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, values)
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": sum(stored.bytes for stored in plan.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(plan: Mapping[str, Stored], shard_bytes: int) -> list[dict[str, Stored]]:
    """Group consecutive tensors, as many as fit."""
    shards: list[dict[str, Stored]] = [{}]
    size = 0
    for name, stored in plan.items():
        if shards[-1] and size + stored.bytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = stored
        size += stored.bytes
    return shards


def _write_file(path: Path, plan: Mapping[str, Stored], tensors: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write the header, then the values of ``plan``'s tensors, taken from ``tensors`` in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without
    start = 0
    for name, stored in plan.items():
        end = start + stored.bytes
        header[name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        source = iter(tensors)
        for name, stored in plan.items():
            actual, values = next(source)
            if actual != name or tuple(values.shape) != stored.shape:
                raise ValueError(f"expected {name} {stored.shape}, got {actual} {tuple(values.shape)}")
            file.write(as_stored(values, stored.dtype).data)
