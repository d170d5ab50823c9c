"""Model registry and label routing: which judges there are, and which of them score a label."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from ...config.yaml_source import parse
from ...errors import ConfigError, did_you_mean

TYPES = {"safety": ("safety",), "value": ("value", "vauai"), "knowledge": ("knowledge",), "normal": ("normal",)}
KINDS = ("model", "rule", "if_rule", "language_rule", "gsm8k_rule", "geo3k_rule")
SPELLINGS = {"type": "name", "use_engine": "engine", "class": "cls"}
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
Routing: TypeAlias = Mapping[str, tuple["Component", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeEntry:
    """A judge of the registry.

    Attributes:
        path: folder of its model; with ``engine`` the name its server knows.
        weight: of its score in every reward, in the registry or as ``RM_NAME_WEIGHT`` in the environment.
        engine: on a server (``url``) instead of in this process.
        tp_size: ranks that its server spreads it over; for whoever starts the server.
        judge: definition in ``judges.yaml``, else that of its name.
        template: file that replaces the definition's, or files by language.
        cls: ``file.py:Class`` of a custom reward model, in the registry as ``class``.
        options, slots, keep: see ``rewards.judge_models.Place``.
    """

    name: str
    path: str
    weight: float = 1.0
    engine: bool = False
    url: str = ""
    tp_size: int = 1
    judge: str = ""
    template: str | Mapping[str, str] = ""
    cls: str = ""
    options: Mapping[str, Any] | None = None
    slots: int = 64
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of a label's reward."""

    kind: str
    name: str
    weight: float


def read_registry(given: Any, *, engine: bool = False, url: str = "") -> dict[str, JudgeEntry]:
    """Name -> judge, from any form of ``--reward_pretrain``: ``name:path,...``, paths whose names tell the type, a
    mapping name -> path or settings, or a list of ``{type, path, engine}``; text may hold them as JSON.

    ``?engine=true`` or ``false`` after a path goes before ``engine``.

    Raises:
        ConfigError: what is none of these, an unknown setting, or a name given twice.
    """
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "["):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ConfigError(f"reward_pretrain is no JSON: {error}; it is {given[:80]!r}") from error
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    if isinstance(given, Mapping):
        given = [{"type": name, **(one if isinstance(one, Mapping) else {"path": one})} for name, one in given.items()]
    if not isinstance(given, Sequence):
        raise ConfigError(f"reward_pretrain must be text, a list or a mapping, not {given!r}")
    entries: dict[str, JudgeEntry] = {}
    for one in given:
        entry = read_entry(one, engine, url)
        if entry.name in entries:
            raise ConfigError(f"reward_pretrain names {entry.name!r} twice: {entries[entry.name].path}, {entry.path}")
        entries[entry.name] = entry
    return entries


def read_entry(one: Any, engine: bool, url: str) -> JudgeEntry:
    """One judge, from a path, ``name:path`` or settings."""
    if isinstance(one, str):
        named = re.match(r"([A-Za-z_]\w*):(?!//)(.+)", one)
        one = {"type": named[1], "path": named[2]} if named else {"path": one}
    if not isinstance(one, Mapping) or not isinstance(one.get("path"), str) or not one["path"]:
        raise ConfigError(f"reward_pretrain: {one!r} has no path")
    settings = {SPELLINGS.get(str(key), str(key)): value for key, value in one.items()}
    path, _, query = settings["path"].partition("?")
    asked = parse_qs(query).get("engine", [str(settings.get("engine", engine))])[0].lower()
    if asked not in (*TRUE, *FALSE) or (query and not query.startswith("engine=")):
        raise ConfigError(f"reward_pretrain: {settings['path']!r}; after the path only ?engine=true or ?engine=false")
    known = [field.name for field in fields(JudgeEntry)]
    for key in settings:
        if key not in known:
            raise ConfigError(f"reward_pretrain: unknown setting {key!r}{did_you_mean(key, known)} of {path}")
    name = settings.get("name") or guess_type(path)
    weight = os.environ.get(f"RM_{name.upper()}_WEIGHT", settings.get("weight", 1.0))
    try:
        settings |= {"name": name, "path": path, "engine": asked in TRUE, "weight": float(weight)}
    except ValueError as error:
        raise ConfigError(f"the weight of the judge {name!r} is {weight!r}, which is no number") from error
    entry = JudgeEntry(**{"url": url, **settings})
    if entry.engine and not entry.url:
        raise ConfigError(f"the judge {name!r} is on a server (engine: true), so it needs url, the server's address")
    return entry


def guess_type(path: str) -> str:
    """The kind of judge that a path names, ``general`` if none."""
    low = path.casefold()
    return next((kind for kind, words in TYPES.items() if any(word in low for word in words)), "general")


def read_routing(given: str | Mapping[str, Any]) -> Routing:
    """Label -> components, from a table of ``routing.yaml`` by name, or given in the same form.

    Raises:
        ConfigError: an unknown table or kind, or a component that is none.
    """
    tables = package_data("routing.yaml")
    if isinstance(given, str) and given not in tables:
        raise ConfigError(
            f"routing {given!r} is unknown; there are {', '.join(tables)}, or a mapping label -> components"
        )
    return {
        str(label): tuple(read_component(str(label), part) for part in parts)
        for label, parts in (tables[given] if isinstance(given, str) else given).items()
    }


def read_component(label: str, part: Any) -> Component:
    """``[kind, name, weight]`` or a mapping of these."""
    keys = {"kind": None, "name": None, "weight": 1.0}
    values = [part.get(key, default) for key, default in keys.items()] if isinstance(part, Mapping) else list(part)
    kind, name, weight = [*values, *list(keys.values())[len(values) :]][:3]
    if kind not in KINDS or (kind == "model") != bool(name):
        raise ConfigError(f"routing of {label!r}: {part!r}; a kind is one of {', '.join(KINDS)}, and model has a name")
    return Component(kind=kind, name=name or kind, weight=float(weight))


def check_labels(labels: Iterable[str], routing: Routing, models: Iterable[str], on_missing: str) -> None:
    """Raise ConfigError for a label without a route, or one whose judge is not in the registry, unless told otherwise."""
    if on_missing not in ("error", "zero", "one"):
        raise ConfigError(f"on_missing_rm is {on_missing!r}; accepted: error, zero, one")
    there = list(models)
    for label in labels if on_missing == "error" else ():
        if label not in routing:
            raise ConfigError(
                f"label {label!r} is unknown{did_you_mean(str(label), routing)}; there are {', '.join(routing)}"
            )
        for part in routing[label]:
            if part.kind == "model" and part.name not in there:
                raise ConfigError(
                    f"label {label!r} is scored by the judge {part.name!r}, which is not among the models "
                    f"({', '.join(there) or 'none'}); add it, or set on_missing_rm to zero or one"
                )


@lru_cache(maxsize=8)
def package_data(name: str) -> dict[str, Any]:
    """A YAML file of this package."""
    value: dict[str, Any] = parse(package_path(name).read_text(encoding="utf-8")).value
    return value


def package_path(name: str) -> Path:
    """Where a file of this package lies."""
    return Path(str(resources.files(__package__).joinpath(name)))
