"""A configuration of another code base, read by a table that says what each of its keys is here.

The table has the shape of their configuration. At a key stands ``{to: KEY, default: VALUE}`` (goes to that key of
ours), ``{as: NAME, default: VALUE}`` (something is computed from it under that name), or a text that says why it has no
meaning here. ``"*"`` stands for every key that is not named beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import yaml_source
from ..errors import ConfigError
from ..nearest import did_you_mean

Place = tuple[str | int, ...]
ANY = "*"


@dataclass(slots=True)
class Translated:
    """What a configuration says in our words.

    Attributes:
        ours: our dotted key -> value.
        named: NAME -> value, those of the table's defaults included.
        given: names and keys of ours that the configuration itself sets.
        unused: their dotted key -> why it has no meaning here.
    """

    ours: dict[str, Any] = field(default_factory=dict)
    named: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    unused: dict[str, str] = field(default_factory=dict)


def translate(
    values: Mapping[str, Any],
    table: Mapping[str, Any],
    *,
    reasons: Mapping[str, str] | None = None,
    place: Callable[[Place], str] = lambda path: "configuration",
) -> Translated:
    """Read a configuration by a table; a value that is null or the text ``None`` counts as not given.

    Args:
        reasons: texts that the table names by a word.
        place: where a key was written, for messages.

    Raises:
        ConfigError: every key that the table does not know, with the nearest that it does.
    """
    found, problems = Translated(), list[str]()
    _defaults(table, found)
    _walk(values, table, (), found, reasons or {}, problems, place)
    if problems:
        raise ConfigError("\n  ".join([f"{len(problems)} unknown keys:", *problems] if len(problems) > 1 else problems))
    return found


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


def _is_leaf(entry: Any) -> bool:
    return isinstance(entry, str) or "to" in entry or "as" in entry


def _defaults(table: Mapping[str, Any], found: Translated) -> None:
    for entry in table.values():
        if isinstance(entry, str):
            continue
        if not _is_leaf(entry):
            _defaults(entry, found)
        elif "default" in entry:
            _put(entry, entry["default"], found)


def _put(entry: Mapping[str, Any], value: Any, found: Translated) -> str:
    if "to" in entry:
        found.ours[entry["to"]] = value
        return str(entry["to"])
    found.named[entry["as"]] = value
    return str(entry["as"])


def _walk(
    values: Mapping[str, Any], table: Mapping[str, Any], path: Place, found: Translated, reasons: Mapping[str, str],
    problems: list[str], place: Callable[[Place], str],
) -> None:  # fmt: skip
    for key, value in values.items():
        here = (*path, str(key))
        entry = table.get(str(key), table.get(ANY))
        if entry is None:
            known = [name for name in table if name != ANY]
            near = did_you_mean(str(key), known) or f"; {'.'.join(map(str, path)) or 'there'} has {', '.join(known)}"
            problems.append(f"{place(here)}: {'.'.join(map(str, here))} is unknown{near}")
        elif isinstance(entry, str):
            found.unused[".".join(map(str, here))] = reasons.get(entry, entry)
        elif _is_leaf(entry):
            if value is not None and value != "None":
                found.given.add(_put(entry, value, found))
        elif isinstance(value, Mapping):
            _walk(value, entry, here, found, reasons, problems, place)
        elif value is not None and value != "None":
            problems.append(f"{place(here)}: {'.'.join(map(str, here))} is {value!r}, not a section")


def options_of(words: Sequence[str], known: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--name value`` and ``--name=value`` of a command line, and its other words; an option alone is ``true``.

    Raises:
        ConfigError: an option that is not known.
    """
    options: dict[str, str] = {}
    others: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            others.append(word)
            continue
        name, given, value = word[2:].replace("-", "_").partition("=")
        if name not in known:
            raise ConfigError(f"option {word!r} is unknown{did_you_mean(name, known)}")
        alone = not waiting or waiting[0].startswith("--")
        options[name] = value if given else "true" if alone else waiting.pop(0)
    return options, others


def listed(value: Any) -> list[str]:
    """A list, or a text with commas (brackets and quotes around it or not), as texts."""
    items = value if isinstance(value, list) else str(value).strip("[]").split(",")
    return [str(item).strip().strip("'\"") for item in items]
