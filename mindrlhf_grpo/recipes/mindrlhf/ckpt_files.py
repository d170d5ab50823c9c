"""MindSpore's checkpoint files (``.ckpt``) in NumPy: read and written without MindSpore, on any machine.

The format is a protocol buffer: a list of values, each a name with dimensions, a type by name and raw bytes; a tensor
above 512 MB is several values under one name. After the last value there may be ``crc_num`` and a checksum in ten bytes.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError
from ...model_files.safetensors import as_stored, from_bfloat16

# Type in a .ckpt -> type by safetensors' name; others (integers of counters, texts) are not weights.
TYPES = {"Float32": "F32", "Float16": "F16", "BFloat16": "BF16", "Float64": "F64"}
NUMPY: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
SLICE_BYTES = 512 * 2**20
CHECKSUM, CHECKSUM_BYTES = b"crc_num", 17
VARINT, BYTES = 0, 2  # wire types


@dataclass(frozen=True, slots=True)
class CkptTensor:
    """One tensor of a file: type by safetensors' name (else MindSpore's), shape, byte ranges."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]


def read_ckpt_header(path: Path) -> dict[str, CkptTensor]:
    """Return the tensors of a file by name, without reading their numbers.

    Raises:
        CheckpointError: the file is not a .ckpt, is cut off, encrypted, or has a wrong checksum.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tensors: dict[str, CkptTensor] = {}
            for name, tensor in _values(data, _end(data)):
                before = tensors.get(name)
                parts = (*before.parts, *tensor.parts) if before else tensor.parts
                tensors[name] = CkptTensor(tensor.dtype, tensor.shape, parts)
    except (OSError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a MindSpore checkpoint ({error}); accepted: a whole .ckpt file, not encrypted"
        ) from None
    _check_sizes(path, tensors)
    return tensors


def read_ckpt_tensor(path: Path, tensor: CkptTensor) -> NDArray[np.float32]:
    """Read the numbers of a tensor as float32.

    Raises:
        CheckpointError: the tensor does not hold floating-point numbers.
    """
    if tensor.dtype not in NUMPY:
        raise CheckpointError(f"{path}: tensors of type {tensor.dtype} are no weights")
    kind = np.dtype(NUMPY[tensor.dtype])
    pieces = [
        np.memmap(path, dtype=np.uint8, mode="r", offset=start, shape=(end - start,))
        for start, end in tensor.parts
        if end > start
    ]
    stored = np.concatenate(pieces).view(kind)  # a copy: parts need not lie aligned
    values = from_bfloat16(stored) if tensor.dtype == "BF16" else stored.astype(np.float32)
    return values.reshape(tensor.shape)


def write_ckpt(path: Path, tensors: Iterable[tuple[str, NDArray[Any]]], *, dtypes: Mapping[str, str]) -> None:
    """Write tensors one by one, as MindSpore would.

    Args:
        dtypes: tensor -> type by safetensors' name.
    """
    names = {stored: name for name, stored in TYPES.items()}
    with path.open("wb") as file:
        for name, values in tensors:
            data = as_stored(values, dtypes[name]).tobytes()
            kind = names[dtypes[name]].encode()
            dims = b"".join(b"\x08" + _varint(size) for size in values.shape)
            for start in range(0, max(1, len(data)), SLICE_BYTES):
                part = data[start : start + SLICE_BYTES]
                tensor = dims + _field(2, kind) + _field(3, part)
                file.write(_field(1, _field(1, name.encode()) + _field(2, tensor)))


def _end(data: mmap.mmap) -> int:
    """Return the offset after the last value; raises ValueError if the checksum behind it is wrong."""
    tail = data[-CHECKSUM_BYTES:]
    if not tail.startswith(CHECKSUM):
        return len(data)
    end = len(data) - CHECKSUM_BYTES
    if zlib.crc32(memoryview(data)[:end]) != int.from_bytes(tail[len(CHECKSUM) :], "big"):
        raise ValueError("its checksum is wrong")
    return end


def _values(data: mmap.mmap, end: int) -> Iterator[tuple[str, CkptTensor]]:
    for number, start, stop in _fields(data, 0, end):
        if number != 1:
            raise ValueError(f"field {number} where a value should be")
        parts = {field: (first, last) for field, first, last in _fields(data, start, stop)}
        if 2 in parts:  # 3 is a map of embeddings, which no language model has
            name = bytes(data[slice(*parts[1])]).decode()
            yield name, _tensor(data, *parts[2])


def _tensor(data: mmap.mmap, start: int, stop: int) -> CkptTensor:
    shape: list[int] = []
    kind, content = "", (start, start)
    for number, first, last in _fields(data, start, stop):
        if number == 1:
            at = first
            while at < last:
                size, at = _read_varint(data, at)
                shape.append(size)
        elif number == 2:
            kind = bytes(data[first:last]).decode()
        elif number == 3:
            content = (first, last)
    return CkptTensor(TYPES.get(kind, kind), () if shape == [0] else tuple(shape), (content,))


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, first byte, end) of each field; for a number, the bytes that hold it."""
    at = start
    while at < stop:
        key, at = _read_varint(data, at)
        first = at
        if key & 7 == VARINT:
            _, at = _read_varint(data, at)
        elif key & 7 == BYTES:
            length, first = _read_varint(data, at)
            at = first + length
        else:
            raise ValueError("no protocol buffer of this kind")
        if at > stop:
            raise ValueError("it is cut off")
        yield key >> 3, first, at


def _read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protocol buffer")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _check_sizes(path: Path, tensors: Mapping[str, CkptTensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in NUMPY:
            continue
        needed = int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(NUMPY[tensor.dtype]).itemsize
        present = sum(end - start for start, end in tensor.parts)
        if needed != present:
            raise CheckpointError(f"{path}: {name} {list(tensor.shape)} needs {needed} bytes, the file has {present}")
