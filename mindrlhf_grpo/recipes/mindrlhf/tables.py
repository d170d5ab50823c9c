"""The tables of this recipe: what its keys are here, and the names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ...compat.translation import Placer, Table, Translation
from ...compat.yaml_values import plain_yaml


@cache
def table(name: str) -> dict[str, Any]:
    """A data file beside the code."""
    return plain_yaml((files(__package__) / name).read_text(encoding="utf-8"), name)[0]


def keys() -> dict[str, Any]:
    """``keys.yaml``."""
    return table("keys.yaml")


def translated(kind: str, values: Mapping[str, Any], place: Placer = lambda path: "configuration") -> Translation:
    """A kind of configuration by its table. Raises ConfigError for keys that it does not know."""
    return Table.of(keys()[kind], reasons=keys()["reasons"], unset=(None, "None")).read(values, place)


def names() -> dict[str, Any]:
    """``names.yaml``."""
    return table("names.yaml")
