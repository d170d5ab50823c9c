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
from ..model_files.checkpoint_folders import is_adapter, policy_folder
from ..model_files.families import FAMILIES, UnknownFamily, read_architecture
from ..model_files.folder import read_model_config
from ..model_files.merged import base_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A public model, or several of one shape.

    Attributes:
        name: family and size, as its file in ``model_configs`` is called.
        ids: hub ids.
        parameters: count of all weights, tied ones once.
        config: the part of ``config.json`` that decides shapes.
    """

    name: str
    ids: tuple[str, ...]
    parameters: int
    config: Mapping[str, Any]


@cache
def known_models() -> dict[str, KnownModel]:
    """All known models by name."""
    entries = yaml.safe_load(files("mindrlhf_grpo.capacity").joinpath("known_models.yaml").read_text("utf-8"))
    return {
        name: KnownModel(name=name, ids=tuple(entry["ids"]), parameters=entry["parameters"], config=entry["config"])
        for name, entry in entries.items()
    }


def find_config(path: str) -> Config:
    """``config.json`` of a model: that of its folder, with weights or without, or of the known model that the path names.

    A path names a known model by its hub id, by a folder called like one (``models/Qwen2.5-7B-Instruct``, whatever
    follows), or by family and size (``qwen2.5-7b``).

    Raises:
        ConfigError: neither exists; the message lists the known models.
    """
    folder = policy_folder(Path(path).expanduser())
    if is_adapter(folder):
        folder = base_folder(folder)
    if (folder / "config.json").is_file():
        return read_model_config(folder)
    known = find_known(path)
    if known is None:
        ids = [name for model in known_models().values() for name in model.ids]
        raise ConfigError(
            f"model.path: the sizes of {path!r} are not known{did_you_mean(path, ids)}; accepted: a folder with a "
            f"config.json, or one of {', '.join(known_models())} by hub id or by name"
        )
    return known.config


def find_architecture(path: str) -> Architecture:
    """The architecture of a model from its ``config.json``, see :func:`find_config`; its weights are not needed.

    Raises:
        ConfigError: the path is neither a folder nor a known model, or the weights of its family are not known.
    """
    try:
        return read_architecture(find_config(path))
    except UnknownFamily as error:
        raise ConfigError(
            f"the weights of model family {error.name!r} are not known without their files; known: {', '.join(FAMILIES)}"
        ) from None


def find_known(path: str) -> KnownModel | None:
    """The known model that a path names; of several, the one with the longest name."""
    requested = plain(path.rstrip("/").split("/")[-1])
    names = {
        plain(name.split("/")[-1]): model for model in known_models().values() for name in (model.name, *model.ids)
    }
    fitting = [name for name in names if requested == name or re.match(rf"{name}(?!\d)", requested)]
    return names[max(fitting, key=len)] if fitting else None


def plain(name: str) -> str:
    """The letters and digits of a name in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
