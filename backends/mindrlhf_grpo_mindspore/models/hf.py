"""Loading, adapting and saving Hugging Face models, and their weights by Hugging Face name.

Only safetensors are read and written: nothing is unpickled. ``hf_tensors`` is the one view of the weights that
trainer, engine and export agree on: adapters merged, names as transformers holds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.errors import CheckpointError, ConfigError, UserError
from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.model_files.folder import TensorInfo, loadable, read_header, read_model_config, weight_files
from mindrlhf_grpo.model_files.lora import PREFIX, read_pairs
from mindrlhf_grpo.model_files.lora import lora_scale as plain_lora_scale
from mindrlhf_grpo.model_files.lora_draws import draw_adapters
from mindrlhf_grpo.model_files.safetensors import (  # fmt: skip
    SHARD_BYTES,
    Stored,
    from_bfloat16,
    to_bfloat16,
    write_model,
    write_tensors,
)
from mindrlhf_grpo.model_files.weights import CORRECTION, file_parts, is_left_out, linear_modules, weight_shapes

from ..graph import overwrite
from .families import supported_architecture
from .weight_slices import WeightSlices, WholeWeights
from .weight_slices import numbers as numbers

DTYPES = {"float32": ms.float32, "bfloat16": ms.bfloat16, "float16": ms.float16}
STORED = {ms.float32: "F32", ms.bfloat16: "BF16", ms.float16: "F16"}
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
NAMED = 3  # weights that an error lists

Weights = dict[str, Parameter]
Found = Mapping[str, tuple[Path, TensorInfo]]
Floats = NDArray[np.float32]


def load_architecture(folder: Path) -> Architecture:
    """Read the architecture of a model folder from its ``config.json`` alone.

    Raises:
        ConfigError: a family that is not supported.
    """
    return supported_architecture(read_model_config(folder))


def load_weights(
    folder: Path, architecture: Architecture, dtype: str = "float32", slices: WeightSlices | None = None
) -> Weights:
    """Load the weights of a model folder by Hugging Face name; all are trainable but the correction of the expert choice.

    Args:
        slices: what this rank reads of each; None: all.

    Raises:
        ConfigError: weights that are missing, unknown or of another shape; names them.
    """
    slices = slices or WeightSlices(architecture)
    return {name: _parameter(name, values, dtype) for name, values in _read_weights(folder, architecture, slices)}


def restore_weights(
    weights: Weights, architecture: Architecture, folder: Path, slices: WeightSlices | None = None
) -> None:
    """Copy saved weights, or a saved adapter, into the live parameters.

    Args:
        slices: what this rank holds of each; None: all.

    Raises:
        CheckpointError: the folder does not fit the model.
    """
    try:
        live, slices = adapters(weights), slices or WeightSlices(architecture)
        saved = _read_adapter(folder, live, slices) if live else _read_weights(folder, architecture, slices)
        for name, values in saved:
            overwrite(weights[name], Tensor(np.ascontiguousarray(values)))
    except (UserError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} does not hold this model's weights: {error}") from None


def is_lora(weights: Mapping[str, Parameter]) -> bool:
    return any(name.endswith(LORA_A) for name in weights)


def adapters(weights: Mapping[str, Parameter]) -> Weights:
    """The parameters of the adapters alone."""
    return {name: weight for name, weight in weights.items() if name.endswith((LORA_A, LORA_B))}


def lora_scale(model: ModelConfig) -> float:
    """The factor of a configuration's adapters: alpha / rank; 0 without adapters."""
    return model.lora_alpha / model.lora_rank if model.lora_rank else 0.0


def add_lora(
    weights: Weights, model: ModelConfig, architecture: Architecture, *, seed: int, slices: WeightSlices | None = None
) -> Weights:
    """Freeze the weights and add fresh float32 adapters (their product is zero); every rank draws the same ones.

    Args:
        slices: what this rank holds of each; None: all.

    Raises:
        ConfigError: a target that names no projection.
    """
    modules = linear_modules(architecture)
    targets = _targets(model, modules)
    if targets is not None:
        modules = {name: shape for name, shape in modules.items() if any(_is_named(name, end) for end in targets)}
    for weight in weights.values():
        weight.requires_grad = False
    added, slices = dict(weights), slices or WeightSlices(architecture)
    for module, a, b in draw_adapters(modules, model.lora_rank, seed):
        for name, values in ((module + LORA_A, a), (module + LORA_B, b)):
            added[name] = Parameter(Tensor(slices.cut(name, values)), name=name)
    return added


class Values(Protocol):
    """Whole weights by name, in float32."""

    def __getitem__(self, name: str, /) -> Floats: ...


def hf_tensors(
    weights: Mapping[str, Parameter], scale: float = 0.0, values: Values | None = None
) -> Iterator[tuple[str, Floats]]:
    """(Hugging Face name, float32 values) of every weight, adapters merged one at a time with ``scale``.

    float32 weights without an adapter are views of the live ones. Merged ones are rounded to the weight's dtype.

    Args:
        values: the whole weights; None: those of ``weights``.
    """
    values = values or WholeWeights(weights)
    for name, weight in weights.items():
        if name.endswith((LORA_A, LORA_B)):
            continue
        whole = values[name]
        module = name.removesuffix(".weight")
        if scale and module + LORA_A in weights:
            delta = (values[module + LORA_B] @ values[module + LORA_A]) * np.float32(scale)
            whole = _rounded(whole + delta, weight.dtype)
        yield name, whole


def save_model(
    weights: Mapping[str, Parameter],
    architecture: Architecture,
    folder: Path,
    model: ModelConfig,
    *,
    merge: bool = False,
    shard_bytes: int = SHARD_BYTES,
    values: Mapping[str, Floats] | None = None,
) -> None:
    """Write the Hugging Face layout: the adapter alone for LoRA, all weights otherwise or with ``merge``.

    Args:
        values: the whole weights where this rank holds slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = values or WholeWeights(weights)
    if is_lora(weights) and not merge:
        _save_adapter(weights, folder, model, whole)
        return
    shapes = {
        name: tuple(weight.shape) if values is None else values[name].shape
        for name, weight in weights.items()
        if not name.endswith((LORA_A, LORA_B))
    }
    plan = {
        part: Stored(STORED[weights[name].dtype], shape)
        for name in shapes
        for part, shape in file_parts(name, shapes[name])
    }
    tensors = (
        (part, tensor.reshape(-1, *shape)[number])
        for name, tensor in hf_tensors(weights, lora_scale(model), whole)
        for number, (part, shape) in enumerate(file_parts(name, shapes[name]))
    )
    write_model(folder, plan, tensors, shard_bytes=shard_bytes)
    embedding = weights["model.embed_tokens.weight"]
    settings = {key: value for key, value in architecture.config.items() if key != "torch_dtype"}
    dtype = next(name for name, kind in DTYPES.items() if kind == embedding.dtype)
    _write_json(folder / "config.json", {**settings, "dtype": dtype})


def _save_adapter(weights: Mapping[str, Parameter], folder: Path, model: ModelConfig, values: Values) -> None:
    """Write the adapter in peft's layout."""
    factors = {PREFIX + name: values[name] for name in adapters(weights)}
    write_tensors(folder / "adapter_model.safetensors", factors)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": loadable(model.path), "bias": "none",
        "r": model.lora_rank, "lora_alpha": model.lora_alpha, "lora_dropout": 0.0, "init_lora_weights": True,
        "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False, "use_dora": False,
        "target_modules": _as_list(model.lora_targets) if model.lora_targets != "all-linear" else _ends(weights),
    }  # fmt: skip
    _write_json(folder / "adapter_config.json", settings)


def _read_adapter(folder: Path, live: Mapping[str, Parameter], slices: WeightSlices) -> Iterator[tuple[str, Floats]]:
    """Read the factors of a saved adapter, checked against the live ones."""
    plain_lora_scale(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    path = folder / "adapter_model.safetensors"
    _check(
        folder,
        {name: slices.whole_shape(name, tuple(weight.shape)) for name, weight in live.items()},
        {name.removeprefix(PREFIX): info for name, info in read_header(path).items()},
    )
    for name, (a, b) in read_pairs(path).items():
        module = name.removesuffix(".weight")
        yield module + LORA_A, slices.cut(module + LORA_A, a)
        yield module + LORA_B, slices.cut(module + LORA_B, b)


def _read_weights(folder: Path, architecture: Architecture, slices: WeightSlices) -> Iterator[tuple[str, Floats]]:
    """Read this rank's slice of every weight of a folder, after a check of its files."""
    stored = {name: (path, info) for path in weight_files(folder) for name, info in read_header(path).items()}
    shapes = weight_shapes(architecture)
    # Experts may lie stacked too, as transformers holds them.
    parts = {name: [(name, shape)] if name in stored else file_parts(name, shape) for name, shape in shapes.items()}
    expected = {part: shape for named in parts.values() for part, shape in named}
    _check(folder, expected, {name: info for name, (_, info) in stored.items() if not is_left_out(name, architecture)})
    for name, shape in shapes.items():
        yield name, slices.of_parts(name, shape, [stored[part] for part, _ in parts[name]])


def _check(folder: Path, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, TensorInfo]) -> None:
    """Raise one ConfigError for all tensors that are missing, unknown or of another shape."""
    problems = []
    if missing := sorted(set(expected) - set(stored)):
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if extra := sorted(set(stored) - set(expected)):
        problems.append(f"{len(extra)} not asked for: {_some(extra)}")
    wrong = [
        f"{name} is {list(stored[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_some(wrong)}")
    if problems:
        raise ConfigError(f"the weights in {str(folder)!r} do not fit the model: {'; '.join(problems)}")


def _parameter(name: str, values: Floats, dtype: str) -> Parameter:
    """Make a parameter; biases that correct the choice of experts are not trained and stay float32."""
    tensor = Tensor(np.ascontiguousarray(values))
    correction = name.endswith(CORRECTION)
    if dtype != "float32" and not correction:
        tensor = tensor.astype(DTYPES[dtype])
    return Parameter(tensor, name=name, requires_grad=not correction)


def _targets(model: ModelConfig, modules: Mapping[str, Any]) -> list[str] | None:
    """The ends of the module names to adapt, checked; None for all modules."""
    if model.lora_targets == "all-linear":
        return None
    targets = _as_list(model.lora_targets)
    for target in targets:
        if not any(_is_named(module, target) for module in modules):
            known = ", ".join(_ends(modules))
            raise ConfigError(f"model.lora_targets: no projection is called {target!r}; here: all-linear, {known}")
    return targets


def _is_named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _ends(names: Mapping[str, Any]) -> list[str]:
    """Last names of modules, or of the modules that adapters belong to."""
    modules = {name.removesuffix(LORA_A) for name in names if name.endswith(LORA_A)} or set(names)
    return sorted({module.rsplit(".", 1)[-1] for module in modules})


def _as_list(targets: str | Sequence[str]) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)


def _rounded(values: Floats, dtype: ms.Type) -> Floats:
    if dtype == ms.bfloat16:
        return from_bfloat16(to_bfloat16(values))
    return values.astype(np.float16).astype(np.float32) if dtype == ms.float16 else values


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
