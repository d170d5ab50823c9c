"""A model folder of what MindRLHF names a model by: a Hugging Face folder, or MindSpore's weights and a YAML of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...compat.yaml_values import plain_yaml
from ...errors import ConfigError, did_you_mean
from .conversion import to_folder
from .model_assembly import complete
from .tables import keys, names


def model_folder(source: str, into: Path, *, shape: Mapping[str, Any] | None, tokenizer: str | None) -> str:
    """The folder to train from: the source itself where it is complete, else one made in ``into``.

    Args:
        shape: ``model.model_config`` of a YAML, for weights that have no config.json.
        tokenizer: folder of tokenizer files (or of vocab.json and merges.txt), where the model has none.

    Raises:
        ConfigError: nothing there, no sizes for weights that need them, or no tokenizer.
        CheckpointError: weights that do not fit the sizes.
    """
    place = Path(source)
    if not place.exists():
        return source  # a hub id, or nothing: the backend's own message
    convert = None
    if not (place / "config.json").is_file():
        if shape is None:
            raise ConfigError(f"{source} has no config.json; sizes come from the model's YAML (model.model_config)")
        config = architecture(shape)
        convert = lambda folder: to_folder(place, folder, names(), config)  # noqa: E731
    tokenizers = [Path(tokenizer)] if tokenizer else [place.parent if place.is_file() else place]
    return str(complete(place, into / "model", convert, tokenizers))


def architecture(shape: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of sizes under MindFormers' names.

    Raises:
        ConfigError: a family or a key that is not known.
    """
    check_shape(shape)
    table, kind = keys(), str(shape.get("type", "LlamaConfig"))
    if kind not in table["families"]:
        known = table["families"]
        raise ConfigError(f"model.model_config.type {kind!r} is unknown{did_you_mean(kind, known)}; {', '.join(known)}")
    family = table["families"][kind]
    if family == "llama" and shape.get("qkv_has_bias"):
        family = "qwen2"
    flat = {**shape, **(shape.get("moe_config") or {})}
    sizes = {table["shape"][key]: value for key, value in flat.items() if key in table["shape"] and value is not None}
    if "eos_token_id" in sizes:
        sizes.setdefault("bos_token_id", None)
    return {"model_type": family, **table["family_settings"][family], **sizes}


def check_shape(shape: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of a model's section that is not known."""
    known = [*keys()["shape"], *keys()["shape_unused"]]
    for key in shape:
        if key not in known:
            raise ConfigError(f"model.model_config.{key} is unknown{did_you_mean(str(key), known)}")


def shape_of(path: str | None) -> dict[str, Any] | None:
    """``model.model_config`` of a model's YAML; None where there is no such file."""
    if not path or not Path(path).is_file():
        return None
    values, _ = plain_yaml(Path(path).read_text(encoding="utf-8"), path)
    found = values.get("model", {}).get("model_config")
    if not isinstance(found, dict):
        raise ConfigError(f"{path} has no section model.model_config")
    return found
