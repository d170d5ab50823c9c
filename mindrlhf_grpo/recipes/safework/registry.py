"""Model registry and label routing: the judges, and the components that score each label."""

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
from ...errors import ConfigError, did_you_mean, did_you_mean_file

TYPES = {"safety": ("safety",), "value": ("value", "vauai"), "knowledge": ("knowledge",), "normal": ("normal",)}
KINDS = ("model", "rule", "if_rule", "language_rule", "gsm8k_rule", "geo3k_rule")
SPELLINGS = {"type": "name", "use_engine": "engine", "class": "cls"}
FILES = (".yaml", ".yml", ".json")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
Routing: TypeAlias = Mapping[str, tuple["Component", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeEntry:
    """A judge of the registry.

    Attributes:
        path: folder of its model; with ``engine`` its name on the server.
        weight: factor of its score, in the registry or as ``RM_NAME_WEIGHT`` in the environment.
        engine: it runs on a server (``url``) instead of in this process.
        tp_size: ranks that the server spreads it over; read by whoever starts the server.
        judge: name of its definition in ``judges.yaml``; default: its own name.
        template: file that replaces the definition's template, or files by language; its variants (``safety`` has one for
            jailbreak rows, ``normal_think`` one for thoughts) stay.
        variants: name -> template, in place of the definition's variants; ``{}``: ``template`` serves every row.
        cls: ``file.py:Class`` of a custom reward model, in the registry as ``class``.
        options, slots, keep: see ``rewards.judges.models.Place``.
    """

    name: str
    path: str
    weight: float = 1.0
    engine: bool = False
    url: str = ""
    tp_size: int = 1
    judge: str = ""
    template: str | Mapping[str, str] = ""
    variants: Mapping[str, str | Mapping[str, str]] | None = None
    cls: str = ""
    options: Mapping[str, Any] | None = None
    slots: int = 64
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component of a label's reward."""

    kind: str
    name: str
    weight: float


def read_registry(pretrain: Any, *, engine: bool = False, url: str = "") -> dict[str, JudgeEntry]:
    """Return name -> judge from any form of ``--reward_pretrain``.

    Forms: ``name:path,...``, paths whose names tell the type, a mapping name -> path or settings, a list of
    ``{type, path, engine}``, or the last two as JSON or in a YAML file. ``?engine=true`` or ``false`` after a path
    overrides ``engine``.

    Raises:
        ConfigError: any other form, an unknown setting, or a repeated name.
    """
    pretrain = unfolded(pretrain, "reward_pretrain")
    if isinstance(pretrain, str):
        pretrain = [part.strip() for part in pretrain.split(",") if part.strip()]
    if isinstance(pretrain, Mapping):
        pretrain = [
            {"type": name, **(one if isinstance(one, Mapping) else {"path": one})} for name, one in pretrain.items()
        ]
    if not isinstance(pretrain, Sequence):
        raise ConfigError(f"reward_pretrain must be text, a list or a mapping, not {pretrain!r}")
    entries: dict[str, JudgeEntry] = {}
    for one in pretrain:
        entry = read_entry(one, engine, url)
        if entry.name in entries:
            raise ConfigError(f"reward_pretrain names {entry.name!r} twice: {entries[entry.name].path}, {entry.path}")
        entries[entry.name] = entry
    return entries


def unfolded(value: Any, what: str) -> Any:
    """Return the mapping or list that a text holds as JSON, or that lies in the YAML file it names; others as they are.

    Raises:
        ConfigError: no such file, or a text or file that is no JSON or YAML.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{what} is no JSON: {error}; it is {value[:80]!r}") from error
    path = Path(value)
    if path.suffix not in FILES:
        return value
    try:
        document = parse(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        hint = did_you_mean_file(path) if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"{what}: the file {value} cannot be read: {error}{hint}") from error
    if document.problems:
        raise ConfigError(f"{what}: {value}:{document.problems[0][0]}: {document.problems[0][1]}")
    if not isinstance(document.value, (Mapping, list)):
        raise ConfigError(f"{what}: {value} holds no mapping or list")
    return document.value


def read_entry(one: Any, engine: bool, url: str) -> JudgeEntry:
    """Read one judge from a path, ``name:path`` or settings."""
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
    """Return the kind of judge that a path names, else ``general``."""
    low = path.casefold()
    return next((kind for kind, words in TYPES.items() if any(word in low for word in words)), "general")


def read_routing(routing: str | Mapping[str, Any]) -> Routing:
    """Return label -> components: a named table of ``routing.yaml``, a mapping in the same form, JSON, or a YAML file.

    Raises:
        ConfigError: an unknown table or kind, or a malformed component.
    """
    tables = package_data("routing.yaml")
    table = tables.get(routing) if isinstance(routing, str) else routing
    table = unfolded(routing, "routing") if table is None else table
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"routing {routing!r} is unknown; there are {', '.join(tables)}, or label -> components: "
            'JSON such as {"mine": [["model", "custom", 1.0]]}, or a YAML file'
        )
    for label, parts in table.items():
        if not isinstance(parts, (list, tuple)):
            raise ConfigError(
                f"routing of {label!r}: {parts!r} is no list of components, such as [[model, safety, 1.0]]"
            )
    return {str(label): tuple(read_component(str(label), part) for part in parts) for label, parts in table.items()}


def read_component(label: str, part: Any) -> Component:
    """Read a component from ``[kind, name, weight]`` or a mapping of these."""
    keys = {"kind": None, "name": None, "weight": 1.0}
    written = dict(zip(keys, part, strict=False)) if isinstance(part, (list, tuple)) else part
    if not isinstance(written, Mapping) or set(written) - set(keys) or len(part) > len(keys):
        raise ConfigError(f"routing of {label!r}: {part!r} is no component; it is [kind, judge, weight]")
    kind, name, weight = ({**keys, **written}[key] for key in keys)
    if kind not in KINDS or (kind == "model") != bool(name):
        raise ConfigError(f"routing of {label!r}: {part!r}; a kind is one of {', '.join(KINDS)}, and model has a name")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ConfigError(f"routing of {label!r}: the weight of {part!r} is {weight!r}, which is no number")
    return Component(kind=kind, name=name or kind, weight=float(weight))


def check_labels(labels: Iterable[str], routing: Routing, models: Iterable[str], on_missing: str) -> None:
    """Raise ConfigError for a label without a route, or with a judge that the registry lacks, if ``on_missing`` is ``error``."""
    if on_missing not in ("error", "zero", "one"):
        raise ConfigError(f"on_missing_rm is {on_missing!r}; accepted: error, zero, one")
    registered = list(models)
    for label in labels if on_missing == "error" else ():
        if label not in routing:
            raise ConfigError(
                f"label {label!r} is unknown{did_you_mean(str(label), routing)}; there are {', '.join(routing)}"
            )
        for part in routing[label]:
            if part.kind == "model" and part.name not in registered:
                raise ConfigError(
                    f"label {label!r} is scored by the judge {part.name!r}, which is not among the models "
                    f"({', '.join(registered) or 'none'}); add it, or set on_missing_rm to zero or one"
                )


@lru_cache(maxsize=8)
def package_data(name: str) -> dict[str, Any]:
    """Return the content of a YAML file of this package."""
    value: dict[str, Any] = parse(package_path(name).read_text(encoding="utf-8")).value
    return value


def package_path(name: str) -> Path:
    """Return the path of a file of this package."""
    return Path(str(resources.files(__package__).joinpath(name)))
