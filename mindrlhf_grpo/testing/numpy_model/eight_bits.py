"""Safetensors files with weights of eight bits and a factor for each block, in DeepSeek-V3's published form."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model_files.safetensors import BLOCK, E4M3, dequantised

BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
LARGEST = 448.0  # of the type


def write_eight_bits(
    path: Path, tensors: Mapping[str, NDArray[np.float32]], *, eight: Collection[str], scales: bool = True
) -> dict[str, NDArray[np.float32]]:
    """Write tensors, some of them in 8 bits; return the numbers that the file then stands for."""
    stored: dict[str, tuple[str, NDArray[Any]]] = {}
    meant: dict[str, NDArray[np.float32]] = {}
    for name, values in tensors.items():
        if name not in eight:
            stored[name], meant[name] = ("F32", values), values
            continue
        bits, factors = quantised(values)
        stored[name], meant[name] = ("F8_E4M3", bits), dequantised(bits, factors)
        if scales:
            stored[f"{name}_scale_inv"] = ("F32", factors)
    header, offset = {}, 0
    for name, (dtype, array) in stored.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(array).tobytes() for _, array in stored.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return meant


def quantised(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The nearest bit patterns of a matrix, and the factor of each block of 128 x 128."""
    rows, columns = (-(-size // BLOCK) for size in values.shape)
    factors = np.empty((rows, columns), np.float32)
    bits = np.empty(values.shape, np.uint8)
    finite = np.argsort(np.where(np.isnan(E4M3), np.inf, E4M3), kind="stable")[:254]  # patterns by their numbers
    between = (E4M3[finite][1:] + E4M3[finite][:-1]) / 2
    for row in range(rows):
        for column in range(columns):
            place = np.s_[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            factors[row, column] = np.abs(values[place]).max() / LARGEST
            bits[place] = finite[np.searchsorted(between, values[place] / factors[row, column])]
    return bits, factors
