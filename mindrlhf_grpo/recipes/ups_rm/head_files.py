"""Files of heads under their model type's names: a head alone, or a language model's folder with a head beside its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError, did_you_mean
from ...model_files.folder import find_folder, read_header, read_model_config, weight_files
from ...model_files.safetensors import read_tensor, write_tensors
from ...model_files.value_head import NAMED_HEADS, NamedHead, ValueHead

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
NAMED = 8  # weights that an error lists
BODY = "body.safetensors"  # new name of a single file: loaders take model.safetensors for the complete model


def write_head(path: Path, head: ValueHead, named: NamedHead) -> None:
    """Write a head under the names of its model type; raises ConfigError for a head with another activation."""
    write_tensors(path, stored_tensors(head, named))


def read_head(path: Path, named: NamedHead) -> ValueHead:
    """Read the head of a file; its names may lack the head's name in front.

    Raises:
        ConfigError: not a safetensors file, or not a chain of linear layers that ends in one number.
    """
    stored_infos = {name.removeprefix(f"{named.name}."): info for name, info in read_header(path).items()}
    depth = sum(name.startswith("layers.") and name.endswith(".weight") for name in stored_infos)
    tensors = {}
    width: int | None = None
    for stored, name in named.stored_names(depth):
        layer = stored.removeprefix(f"{named.name}.")
        weight, bias = stored_infos.get(f"{layer}.weight"), stored_infos.get(f"{layer}.bias")
        fits = weight is not None and bias is not None and len(weight.shape) == 2 and bias.shape == weight.shape[:1]
        if not fits or weight is None or bias is None or width not in (None, weight.shape[1]):
            listed = ", ".join(f"{key} {list(info.shape)}" for key, info in sorted(stored_infos.items())[:NAMED])
            raise ConfigError(
                f"{path} is no head {named.name}: {stored} does not fit; the file has {listed or 'nothing'}"
            )
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = read_tensor(path, weight), read_tensor(path, bias)
        width = weight.shape[0]
    if width != 1 or len(stored_infos) != len(tensors):
        raise ConfigError(
            f"{path} is no head {named.name} of one number: it has {', '.join(sorted(stored_infos)[:NAMED])}"
        )
    return ValueHead(tensors=tensors, activation=named.activation)


def stored_tensors(head: ValueHead, named: NamedHead) -> dict[str, Any]:
    """Return the weights under the names that a folder has."""
    if head.activation != named.activation and len(head.layers) > 1:
        raise ConfigError(f"a head {named.name} has {named.activation} between its layers, not {head.activation}")
    names = named.stored_names(len(head.layers) - 1)
    return {
        f"{stored}.{part}": head.tensors[f"{layer}.{part}"]
        for (stored, _), layer in zip(names, head.layers, strict=True)
        for part in ("weight", "bias")
    }


def merge_head(
    body: str, head: ValueHead, model_type: str, out: Path, extra_config: Mapping[str, Any]
) -> dict[str, Any]:
    """Copy a language model's folder and add the head in a separate file that the index lists; returns its config.json.

    Args:
        body: folder or hub id (with its files in the cache) of a model of the family that the head's model type needs.
        extra_config: more entries for ``config.json`` (architectures, auto_map).

    Raises:
        ConfigError: another family, a head of another width, missing files, or a folder ``out`` that is not empty.
    """
    folder = find_folder(body)
    named = named_head(model_type)
    config = read_model_config(folder)
    if config.get("model_type") != named.family:
        raise ConfigError(
            f"{body!r} is a model of type {config.get('model_type')!r}; a {model_type} has a body of type {named.family!r}"
        )
    tensors = stored_tensors(head, named)
    widths = [head.tensors[f"{layer}.weight"].shape[0] for layer in head.layers[:-1]]
    width = head.tensors[f"{head.layers[0]}.weight"].shape[1]
    if width != config.get("hidden_size"):
        raise ConfigError(f"the head reads {width} numbers, {body!r} has a hidden size of {config.get('hidden_size')}")
    files = weight_files(folder)
    lacking = [path.name for path in files if not path.is_file()] if files else ["*.safetensors"]
    if lacking:
        raise ConfigError(f"{folder} lacks weights ({', '.join(lacking)}); fetch the whole model first")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{str(out)!r} is there already; merge into a new folder")
    out.mkdir(parents=True, exist_ok=True)
    weight_map = copy_body(folder, out)
    shard = f"{model_type}.safetensors"
    write_tensors(out / shard, tensors)
    write_index(out, {**weight_map, **dict.fromkeys(tensors, shard)})
    merged = {
        **config,
        **extra_config,
        "model_type": model_type,
        named.widths: ",".join(map(str, widths)),
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    (out / "config.json").write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return merged


def named_head(model_type: object) -> NamedHead:
    """Return the head of a model type; raises ConfigError for a type without one."""
    if model_type not in NAMED_HEADS:
        hint = did_you_mean(str(model_type), NAMED_HEADS)
        raise ConfigError(f"model_type {model_type!r} has no head of its own{hint}; accepted: {', '.join(NAMED_HEADS)}")
    return NAMED_HEADS[str(model_type)]


def copy_body(folder: Path, out: Path) -> dict[str, str]:
    """Copy everything but the index and config.json; returns tensor -> file."""
    files = {path.name: (BODY if path.name == SINGLE else path.name) for path in weight_files(folder)}
    left_out = {INDEX, "config.json", *(path.name for path in folder.glob("*.safetensors") if path.name not in files)}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in left_out:
            shutil.copyfile(path, out / files.get(path.name, path.name))
    return {name: new for old, new in files.items() for name in read_header(folder / old)}


def write_index(out: Path, weight_map: Mapping[str, str]) -> None:
    """Write the index of the files, with the bytes of all tensors."""
    headers = [read_header(out / file) for file in sorted(set(weight_map.values()))]
    total = sum(info.end - info.start for header in headers for info in header.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
