"""MindRLHF's keys: YAML files with the lines that their keys stand on, and ``keys.yaml``, which says what each is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ...compat.translation import Place, Placer, Table, Translation
from ...config import yaml_source
from ...errors import ConfigError


@cache
def package_yaml(name: str) -> dict[str, Any]:
    """Return the content of a YAML file beside this module."""
    return plain_yaml((files(__package__) / name).read_text(encoding="utf-8"), name)[0]


def keys() -> dict[str, Any]:
    """Return ``keys.yaml``."""
    return package_yaml("keys.yaml")


def translated(kind: str, values: Mapping[str, Any], place: Placer = lambda path: "configuration") -> Translation:
    """Read a kind of configuration by its table in ``keys.yaml``; raises ConfigError for unknown keys."""
    return Table.parse(keys()[kind], reasons=keys()["reasons"], unset=(None, "None")).read(values, place)


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as a tree: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, last = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree


def plain_yaml(text: str, name: str) -> tuple[dict[str, Any], Callable[[Place], str]]:
    """Parse a YAML file into its mapping and a function from a key's path to ``file:line``.

    Raises:
        ConfigError: the text is not YAML, or not a mapping.
    """
    document = yaml_source.parse(text)
    if document.problems:
        raise ConfigError("\n  ".join(f"{name}:{line}: {problem}" for line, problem in document.problems))
    if not isinstance(document.value, dict):
        raise ConfigError(f"{name} holds {type(document.value).__name__}, not a mapping of keys")
    lines = document.lines

    def place(path: Place) -> str:
        return f"{name}:{lines[path]}" if path in lines else name

    return document.value, place


def set_by_path(values: dict[str, Any], text: str) -> None:
    """Set ``a.b.c=VALUE`` in a tree; the value is YAML.

    Raises:
        ConfigError: there is no ``=``, or the value is not YAML.
    """
    key, equals, written = text.partition("=")
    parts = key.strip().lstrip("+").split(".")
    document = yaml_source.parse(written)
    if not equals or not all(parts):
        raise ConfigError(f"{text!r}: expected section.key=value")
    if document.problems:
        raise ConfigError(f"{text!r}: {document.problems[0][1]}")
    inner = values
    for part in parts[:-1]:
        if not isinstance(inner.get(part), dict):
            inner[part] = {}
        inner = inner[part]
    inner[parts[-1]] = document.value


def listed(value: Any) -> list[str]:
    """Return the items of a list or of a comma-separated text as texts; brackets and quotes are stripped."""
    items = value if isinstance(value, list) else str(value).strip("[]").split(",")
    return [str(item).strip().strip("'\"") for item in items]
