"""The tables of this recipe: what its keys are here, and the names of its weights."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from ...foreign.translation import plain_yaml


@cache
def table(name: str) -> dict[str, Any]:
    """A data file beside the code."""
    return plain_yaml((files(__package__) / name).read_text(encoding="utf-8"), name)[0]


def keys() -> dict[str, Any]:
    """``keys.yaml``."""
    return table("keys.yaml")


def names() -> dict[str, Any]:
    """``names.yaml``."""
    return table("names.yaml")
