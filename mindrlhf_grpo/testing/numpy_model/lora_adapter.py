"""A random LoRA adapter in peft's layout, with both factors other than zero, so that every part has an effect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...model_files.folder import TensorInfo
from ...model_files.lora import PREFIX
from ...model_files.safetensors import write_tensors
from .tiny_llama import normal

SPREAD = 0.3  # standard deviation of the factors, before A's division by the root of its inputs


def adapted_modules(header: Mapping[str, TensorInfo]) -> dict[str, tuple[int, int]]:
    """Linear modules inside the layers -> (outputs, inputs), without single experts, which are not modules everywhere."""
    return {
        name.removesuffix(".weight"): (info.shape[0], info.shape[1])
        for name, info in header.items()
        if ".layers." in name and ".experts." not in name and name.endswith("_proj.weight") and len(info.shape) == 2
    }


def random_adapter(modules: Mapping[str, tuple[int, int]], *, rank: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """``MODULE.lora_A.weight`` ``[r, in]`` and ``MODULE.lora_B.weight`` ``[out, r]`` of every module."""
    factors: dict[str, NDArray[np.float32]] = {}
    for number, (module, (outputs, inputs)) in enumerate(sorted(modules.items())):
        a = normal(seed, 2 * number, (rank, inputs)) * SPREAD / math.sqrt(inputs)
        b = normal(seed, 2 * number + 1, (outputs, rank)) * SPREAD
        factors[f"{module}.lora_A.weight"] = a.astype(np.float32)
        factors[f"{module}.lora_B.weight"] = b.astype(np.float32)
    return factors


def targets_of(factors: Iterable[str]) -> list[str]:
    """The last names of the adapted modules, for ``model.lora_targets``."""
    return sorted({name.split(".")[-3] for name in factors})


def write_adapter(
    folder: Path, factors: Mapping[str, NDArray[np.float32]], *, rank: int, alpha: float, model: str
) -> Path:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model, "r": rank,
        "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "target_modules": targets_of(factors),
        "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))
    write_tensors(folder / "adapter_model.safetensors", {PREFIX + name: array for name, array in factors.items()})
    return folder
