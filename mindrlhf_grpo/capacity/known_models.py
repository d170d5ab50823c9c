"""Public models whose sizes are known without their files: ``known_models.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, did_you_mean
from ..model_files.architecture import Architecture, Config
from ..model_files.families import FAMILIES, UnknownFamily, read_architecture
from ..model_files.folder import read_model_config


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model, or several of one shape.

    Attributes:
        name: family and size, as its file in ``model_configs`` is called.
        ids: hub ids.
        parameters: all weights, tied ones once.
        config: what ``config.json`` says of their shapes.
    """

    name: str
    ids: tuple[str, ...]
    parameters: int
    config: Mapping[str, Any]


@cache
def known_models() -> dict[str, KnownModel]:
    """All of them by name."""
    found = yaml.safe_load(files("mindrlhf_grpo.capacity").joinpath("known_models.yaml").read_text("utf-8"))
    return {
        name: KnownModel(name=name, ids=tuple(entry["ids"]), parameters=entry["parameters"], config=entry["config"])
        for name, entry in found.items()
    }


def config_of(path: str) -> Config:
    """``config.json`` of a model: the folder's if it is there, weights or not, else that of the known model it names.

    A path names a known model by its hub id, by a folder called like one (``models/Qwen2.5-7B-Instruct``, whatever
    follows), or by family and size (``qwen2.5-7b``).

    Raises:
        ConfigError: neither; says which are known.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return read_model_config(folder)
    found = find_known(path)
    if found is None:
        ids = [name for model in known_models().values() for name in model.ids]
        raise ConfigError(
            f"model.path: the sizes of {path!r} are not known{did_you_mean(path, ids)}; accepted: a folder with a "
            f"config.json, or one of {', '.join(known_models())} by hub id or by name"
        )
    return found.config


def architecture_of(path: str) -> Architecture:
    """The architecture of a model without its files: that of ``config_of``.

    Raises:
        ConfigError: neither a folder nor a known model, or a family whose weights are not known.
    """
    try:
        return read_architecture(config_of(path))
    except UnknownFamily as error:
        raise ConfigError(
            f"the weights of model family {error.name!r} are not known without their files; known: {', '.join(FAMILIES)}"
        ) from None


def find_known(path: str) -> KnownModel | None:
    """The known model that a path names: of several, the one with the longest name."""
    wanted = plain(path.rstrip("/").split("/")[-1])
    names = {
        plain(name.split("/")[-1]): model for model in known_models().values() for name in (model.name, *model.ids)
    }
    fitting = [name for name in names if wanted == name or re.match(rf"{name}(?!\d)", wanted)]
    return names[max(fitting, key=len)] if fitting else None


def plain(name: str) -> str:
    """Letters and digits of a name alone, small."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
