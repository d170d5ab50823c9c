"""Values of another program's YAML file and of its command line, before a table says what they are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..config import yaml_source
from ..errors import ConfigError
from .translation import Place


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, last = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree


def plain_yaml(text: str, name: str) -> tuple[dict[str, Any], Callable[[Place], str]]:
    """A YAML file's mapping, and where its keys stand (``file:line``).

    Raises:
        ConfigError: no YAML, or no mapping.
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
    """Apply ``a.b.c=VALUE``, the value read as YAML.

    Raises:
        ConfigError: no ``=``, or a value that is no YAML.
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
    """A list, or a text with commas (brackets and quotes around it or not), as texts."""
    items = value if isinstance(value, list) else str(value).strip("[]").split(",")
    return [str(item).strip().strip("'\"") for item in items]
