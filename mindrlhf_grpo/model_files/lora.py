"""Merging LoRA adapters into their weights: W + scale * B @ A, in NumPy, one tensor at a time.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685. The adapter is in peft's layout: A ``[r, in]``,
B ``[out, r]``. Each weight file of the base is copied and only the merged tensors are written over.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .folder import TensorInfo, read_header, weight_files
from .safetensors import as_stored, read_tensor, stored_type, write_tensors
from .value_head import ACTIVATION_KEY, ACTIVATIONS, ValueHead, is_head, write_head_settings
from .value_head import NAME as HEAD

PREFIX, WEIGHTS = "base_model.model.", "adapter_model.safetensors"
PLAIN = {
    "bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    "layers_pattern": None, "trainable_token_indices": None, "target_parameters": None,
}  # fmt: skip


def merge_adapter(adapter: Path, base: Path, out: Path) -> None:
    """Write ``base`` with the adapter merged into the folder ``out``.

    Raises:
        CheckpointError: an adapter of another kind than plain LoRA, or one that does not fit the base.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = lora_scale(settings)
    pairs, head = read_pairs(adapter / WEIGHTS), read_head(adapter / WEIGHTS)
    files = weight_files(base)
    if not files:
        raise CheckpointError(f"{base} has no safetensors weights to merge into")
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix not in (".bin", ".gguf"):
            shutil.copyfile(path, out / path.name)
    merged: set[str] = set()
    for path in files:
        merged |= _merge_file(out / path.name, pairs, scale, transposed=bool(settings.get("fan_in_fan_out")))
    if missing := sorted(set(pairs) - merged):
        raise CheckpointError(f"the adapter has {missing[0]}, which {base} has not: they belong to different models")
    if head:
        _write_head(out, head)


def lora_scale(settings: Mapping[str, Any]) -> float:
    """``alpha / r``, or ``alpha / sqrt(r)`` for rank-stabilised LoRA; raises CheckpointError for other kinds."""
    for name, plain in PLAIN.items():
        value = settings.get(name)
        if value and value != plain and not (name == "modules_to_save" and value == [HEAD]):
            raise CheckpointError(f"cannot merge an adapter with {name}: {value!r}; only plain LoRA is accepted")
    if settings.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"cannot merge an adapter of type {settings['peft_type']!r}; only LORA is accepted")
    rank = settings["r"]
    return float(settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def read_pairs(path: Path) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weight name -> (A, B) in float32, from an adapter file."""
    factors: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, info in read_header(path).items():
        if is_head(name.removeprefix(PREFIX)):
            continue
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if side not in ("lora_A", "lora_B"):
            raise CheckpointError(f"{path} has the tensor {name}, which is no part of plain LoRA")
        factors.setdefault(f"{module}.weight", {})[side] = read_tensor(path, info)
    return {name: (sides["lora_A"], sides["lora_B"]) for name, sides in factors.items()}


def read_head(path: Path) -> dict[str, NDArray[np.float32]]:
    """The value head beside an adapter (of a reward model or critic) by its names in a model folder; empty without one."""
    header = {name.removeprefix(PREFIX): info for name, info in read_header(path).items()}
    return {name: read_tensor(path, info) for name, info in header.items() if is_head(name)}


def _write_head(folder: Path, head: Mapping[str, NDArray[np.float32]]) -> None:
    """Put a value head into a model folder: over the one that it has, else in a file of its own."""
    held = {name: path for path in weight_files(folder) for name in read_header(path) if is_head(name)}
    if held and set(held) != set(head):
        raise CheckpointError(f"the adapter's head has {', '.join(head)}, the model's {', '.join(sorted(held))}")
    for name, path in held.items():
        info = read_header(path)[name]
        if info.shape != head[name].shape:
            raise CheckpointError(f"the adapter's {name} is {head[name].shape}, the model's {info.shape}")
        write_over(path, info, head[name])
    if not held:
        _add_file(folder, head)
    activation = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(ACTIVATION_KEY, ACTIVATIONS[0])
    write_head_settings(folder, ValueHead(tensors=dict(head), activation=activation))


def _add_file(folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Add tensors to a model folder as another numbered file; readers find them through the index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        single.rename(folder / "model-00001-of-00002.safetensors")
    files = weight_files(folder)
    added = folder / ("model-00002-of-00002.safetensors" if len(files) == 1 else "model-head.safetensors")
    write_tensors(added, tensors)
    places = {name: path.name for path in [*files, added] for name in read_header(path)}
    size = sum(info.end - info.start for path in [*files, added] for info in read_header(path).values())
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2) + "\n")


def _merge_file(
    path: Path,
    pairs: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    scale: float,
    *,
    transposed: bool,
) -> set[str]:
    """Add the adapter to the weights of one file, in place; return the merged names."""
    header = read_header(path)
    names = {without_prefixes(name): name for name in pairs}
    adapted = {name: names[without_prefixes(name)] for name in header if without_prefixes(name) in names}
    for stored_name, name in adapted.items():
        info = header[stored_name]
        a, b = pairs[name]
        delta = (b @ a) * np.float32(scale)
        delta = delta.T if transposed else delta
        if delta.shape != info.shape:
            raise CheckpointError(f"the adapter's {name} is {delta.shape}, the model's {info.shape}")
        write_over(path, info, read_tensor(path, info) + delta)
    return set(adapted.values())


def write_over(path: Path, info: TensorInfo, values: NDArray[np.float32]) -> None:
    """Write values over a tensor of a file, rounded once to its type."""
    stored = np.memmap(path, dtype=stored_type(info.dtype), mode="r+", offset=info.start, shape=(info.size,))
    stored[:] = as_stored(values, info.dtype).ravel()
    stored.flush()


def without_prefixes(name: str) -> str:
    """A weight's name without its prefixes.

    Models that read images are published with other prefixes (``model.layers``, ``language_model.model.layers``) than
    transformers has in memory (``model.language_model.layers``).
    """
    while name.startswith(("model.", "language_model.")):
        name = name.partition(".")[2]
    return name
