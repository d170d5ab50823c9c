"""Convert MindFormers' weights to a Hugging Face folder and back, by a table of names; NumPy only, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError, ConfigError
from ...model_files.architecture import Architecture
from ...model_files.families import read_architecture
from ...model_files.folder import TOKENIZER_FILES, copy_files, find_folder, read_header, read_model_config, weight_files
from ...model_files.safetensors import STORED, Stored, read_tensor, write_model
from ...model_files.weights import file_parts, is_left_out, weights
from .ckpt_files import read_ckpt_header, read_ckpt_tensor, write_ckpt
from .weight_names import NAMED, NameMap, Plan, family_rules, to_here, to_there

Format = Literal["ckpt", "safetensors"]


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor of a checkpoint: its type by safetensors' name, its shape, and a function that reads it."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The result of a conversion; ``left_out`` are names that are not weights."""

    out: Path
    tensors: int
    left_out: tuple[str, ...]


def to_folder(source: Path, out: Path, maps: Mapping[str, Any], config: Mapping[str, Any]) -> Converted:
    """Write a checkpoint (a ``.ckpt`` or ``.safetensors`` file, or a folder of such files) as a Hugging Face folder.

    Args:
        maps: family (``model_type``) -> table of names, see ``weight_names``.
        config: the content of ``config.json``.

    Raises:
        CheckpointError: names or shapes that do not fit the family, an unreadable file, or parts of several ranks.
        ConfigError: a family without a table.
    """
    architecture = read_architecture(config)
    there = sources(source)
    plan = to_here(family_rules(maps, str(config.get("model_type"))), list(there), model_sizes(config))
    stored, tensors = _computed(plan, there)
    check_sizes(str(source), {name: info.shape for name, info in stored.items()}, architecture)
    out.mkdir(parents=True, exist_ok=True)
    write_model(out, stored, tensors)
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[next(iter(stored.values())).dtype]
    text = json.dumps({**config, "dtype": dtype}, indent=2, ensure_ascii=False)
    (out / "config.json").write_text(text + "\n", encoding="utf-8")
    return Converted(out=out, tensors=len(stored), left_out=tuple(plan.left_out))


def check_sizes(source: str, found: Mapping[str, tuple[int, ...]], architecture: Architecture) -> None:
    """Hold the weights of a checkpoint against the sizes of its model.

    Args:
        found: Hugging Face name -> shape.

    Raises:
        CheckpointError: a weight of another shape, one that is missing, or one too many.
    """
    body = weights(replace(architecture, headless=True))
    expected = {part: shape for weight in body for part, shape in file_parts(weight.name, weight.shape)}
    heads = {"lm_head.weight": (architecture.vocabulary, architecture.hidden), "score.weight": (1, architecture.hidden)}
    expected |= {name: shape for name, shape in heads.items() if name in found}
    if not architecture.tied and not heads.keys() & found.keys():
        expected["lm_head.weight"] = heads["lm_head.weight"]
    wrong = [
        f"{name} is {list(found[name])}, {list(shape)} by the sizes" if name in found else f"{name} is missing"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    wrong += [
        f"{name} is one too many" for name in found if name not in expected and not is_left_out(name, architecture)
    ]
    if wrong:
        more = "; ..." if len(wrong) > NAMED else ""
        raise CheckpointError(
            f"{source} does not fit the sizes of its model in {len(wrong)} weights: {'; '.join(wrong[:NAMED])}{more}"
        )


def from_folder(folder: Path, out: Path, maps: Mapping[str, Any], form: Format) -> Converted:
    """Write a folder's weights under MindFormers' names: ``OUT/model.ckpt`` or safetensors, tokenizer and config.json.

    Raises:
        CheckpointError: a weight that the table does not know.
        ConfigError: no model folder, or a family without a table.
    """
    folder = find_folder(str(folder))
    config = read_model_config(folder)
    names: NameMap = family_rules(maps, str(config.get("model_type")))
    here = sources(folder)
    plan = to_there(names, list(here), model_sizes(config))
    out.mkdir(parents=True, exist_ok=True)
    stored, tensors = _computed(plan, here)
    if form == "ckpt":
        write_ckpt(out / "model.ckpt", tensors, dtypes={name: info.dtype for name, info in stored.items()})
    else:
        write_model(out, stored, tensors)
    copy_files(folder, out, (*TOKENIZER_FILES, "config.json"))
    return Converted(out=out, tensors=len(stored), left_out=())


def sources(path: Path) -> dict[str, Source]:
    """Return the tensors of a checkpoint by name.

    Raises:
        CheckpointError: no weights, or the parts of several ranks.
    """
    all_tensors: dict[str, Source] = {}
    for file in _files(path):
        tensors = _ckpt_sources(file) if file.suffix == ".ckpt" else _safetensors_sources(file)
        doubled = sorted(all_tensors.keys() & tensors.keys())
        if doubled:
            raise CheckpointError(
                f"{path}: {doubled[0]} lies in several files: these are the parts of several ranks; bring them together "
                "first (MindSpore: merge_sliced_parameter, unified_safetensors or transform_checkpoints)"
            )
        all_tensors |= tensors
    return all_tensors


def model_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes by which rules count rows, from a ``config.json``."""
    heads = int(config.get("num_attention_heads", 1))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    hidden = int(config.get("hidden_size", 0))
    named = {
        "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "group": heads // kv_heads,
        "head": config.get("head_dim") or hidden // heads, "inner": config.get("intermediate_size"),
        "experts": config.get("n_routed_experts"), "expert_inner": config.get("moe_intermediate_size"),
        "nope": config.get("qk_nope_head_dim"), "rope": config.get("qk_rope_head_dim"),
        "value": config.get("v_head_dim"), "kv_rank": config.get("kv_lora_rank"),
    }  # fmt: skip
    return {"one": 1, **{name: int(value) for name, value in named.items() if value}}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = weight_files(path) if (path / "config.json").is_file() else sorted(path.rglob("*.safetensors"))
        files = files or sorted(path.rglob("*.ckpt"))
    else:
        raise ConfigError(f"there is no checkpoint {str(path)!r}")
    if not files or files[0].suffix not in (".ckpt", ".safetensors"):
        raise CheckpointError(f"{path} holds no weights; accepted: .ckpt and .safetensors files, or a folder of them")
    return files


def _ckpt_sources(file: Path) -> dict[str, Source]:
    return {
        name: Source(tensor.dtype, tensor.shape, lambda tensor=tensor: read_ckpt_tensor(file, tensor))  # type: ignore[misc]
        for name, tensor in read_ckpt_header(file).items()
    }


def _safetensors_sources(file: Path) -> dict[str, Source]:
    return {
        name: Source(info.dtype, info.shape, lambda info=info: read_tensor(file, info))  # type: ignore[misc]
        for name, info in read_header(file).items()
    }


def _computed(plan: Plan, sources: Mapping[str, Source]) -> tuple[dict[str, Stored], Any]:
    """Return types and shapes of the tensors to be written, and an iterator over their values.

    Shapes come from a dry run on arrays without memory.
    """
    used: dict[str, set[str]] = {name: set() for name in plan.tensors}

    def shape_of(name: str) -> tuple[int, ...]:
        def read(source: str) -> NDArray[Any]:
            used[name].add(source)
            return np.broadcast_to(np.zeros((), np.uint8), sources[source].shape)

        try:
            return tuple(plan.tensors[name](read).shape)
        except ValueError as error:  # rows that cannot be grouped as the sizes say
            raise CheckpointError(f"{name} does not fit the sizes of the model: {error}") from None

    shapes = {name: shape_of(name) for name in plan.tensors}
    stored = {name: Stored(_dtype(used[name], sources), shape) for name, shape in shapes.items()}
    values = ((name, make(lambda source: sources[source].read())) for name, make in plan.tensors.items())
    return stored, values


def _dtype(names: set[str], sources: Mapping[str, Source]) -> str:
    dtype = max((sources[name].dtype for name in names), key=lambda kind: (kind == "F32", kind))
    if dtype not in STORED:
        raise CheckpointError(f"{min(names)} is of type {dtype}; accepted weights: {', '.join(STORED)}")
    return dtype
