"""Every configuration key as a record: its description, the values it accepts in words, its names in other frameworks.

All of it is derived from the section classes; nothing about a key is written twice. Lists of sections are
addressed by index: ``rewards.0.weight`` has the record ``rewards.N.weight``.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .peer_names import find_peer_name
from .run import RunConfig
from .section import Section

KINDS = {str: "text", Path: "a path", bool: "true or false", int: "a whole number", float: "a number", Any: "any value"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key (or section) of the configuration.

    Attributes:
        path: dotted, with ``N`` for an index.
        accepted: what it takes, in words.
        default: as YAML; None where the key must be given.
        peers: (framework, its name for this key) pairs.
        choices: the accepted texts, where only these are accepted.
        numeric: whether it takes numbers, so that true/false is a mistake.
        textual: whether it takes text and nothing else (null apart).
        section: the section class, for a section or a list of sections.
        optional: whether the section may be absent (null).
    """

    path: str
    description: str
    accepted: str
    default: str | None
    peers: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()
    numeric: bool = False
    textual: bool = False
    section: type[Section] | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit(".", 1)[-1]

    @property
    def parent(self) -> str:
        """The path of the section the key belongs to; empty at the top."""
        return self.path.rpartition(".")[0]


class Catalogue:
    """The keys of one kind of configuration; ``root`` is its class."""

    def __init__(self, root: type[Section]) -> None:
        self.root = root
        self.records = {key.path: key for key in _walk(root, "")}  # every key and section, in the order of the class

    def leaves(self) -> list[Key]:
        """The keys that hold a value (no sections)."""
        return [key for key in self.records.values() if key.section is None]

    def always_present(self) -> list[Key]:
        """The keys outside sections that are null unless asked for."""
        optional = tuple(f"{key.path}." for key in self.records.values() if key.optional)
        return [key for key in self.leaves() if not key.path.startswith(optional)]

    def children(self, path: str) -> list[Key]:
        """The keys directly in a section (``""``: the top)."""
        return [key for key in self.records.values() if key.parent == path and key.path != path and key.name != "N"]

    def suggestion(self, path: Sequence[str | int]) -> str:
        """The key that an unknown one probably stands for, as the end of a sentence; empty if nothing is near.

        Tried in turn: the same name in another section, what a peer calls it, the nearest in its own
        section, the nearest anywhere.
        """
        name, parent = str(path[-1]), record_path(path[:-1])
        if not parent and (section := _by_spelling(name, self.children(""))):  # a misspelt section
            return f"did you mean {section}?"
        same = [key.path for key in self.records.values() if key.name == name and key.name != "N"]
        if same:
            outermost = min(path.count(".") for path in same)
            return f"did you mean {' or '.join(path for path in same if path.count('.') == outermost)}?"
        if aliases := self.by_peer_name(dotted(path)):
            return "; ".join(f"{', '.join(frameworks)}: here it is {path}" for path, frameworks in aliases.items())
        if peer := find_peer_name(dotted(path)):
            return peer.sentence
        near = _by_spelling(name, self.children(parent)) or _by_spelling(name, self.leaves())
        nearest = near or _by_path(dotted(path), self.leaves())
        return f"did you mean {nearest}?" if nearest else ""

    def by_peer_name(self, name: str) -> dict[str, list[str]]:
        """Paths of the keys that a peer calls ``name`` -> the frameworks that do; dots, dashes and case are lenient."""
        asked = _plain(name)
        frameworks: dict[str, list[str]] = {}
        for key in self.leaves():
            for framework, peer in key.peers:
                plain = _plain(peer)
                if not re.fullmatch(r"[a-z_][\w.]*", plain):
                    continue  # a value beside a name (zero_optimization.stage 0, 1, 2), or a remark
                last = asked.rsplit(".", 1)[-1]
                same = asked == plain or asked.endswith(f".{plain}") or plain.endswith(f".{asked}")
                if same or (len(last) > 2 and last == plain.rsplit(".", 1)[-1]):
                    frameworks.setdefault(key.path, []).append(framework)
        return frameworks


@cache
def catalogue(root: type[Section] = RunConfig) -> Catalogue:
    """The keys of a configuration class, made once."""
    return Catalogue(root)


def record_path(path: Sequence[str | int]) -> str:
    """Dotted record path of a place in the tree: indices become ``N``."""
    return ".".join("N" if str(part).isdigit() else str(part) for part in path)


def dotted(path: Iterable[str | int]) -> str:
    """A place in the tree as the user writes it."""
    return ".".join(str(part) for part in path)


def _walk(section: type[Section], prefix: str) -> Iterator[Key]:
    for name, info in section.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        inner, is_list = _section_of(info.annotation)
        yield _record(path, info, inner, is_list)
        if inner and is_list:
            yield Key(path=f"{path}.N", description="", accepted=_mapping_of(inner), default=None, section=inner)
        if inner:
            yield from _walk(inner, f"{path}.N" if is_list else path)


def _section_of(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section class of an annotation (perhaps with null), and whether it is a list of them."""
    kind = get_args(annotation)[0] if optional(annotation) else annotation
    is_list = get_origin(kind) is list
    kind = get_args(kind)[0] if is_list else kind
    return (kind, is_list) if isinstance(kind, type) and issubclass(kind, Section) else (None, False)


def optional(annotation: Any) -> bool:
    """True for an annotation ``something | None``."""
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def _record(path: str, info: FieldInfo, section: type[Section] | None, is_list: bool) -> Key:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    if section:
        accepted = f"a list, each item {_mapping_of(section)}" if is_list else _mapping_of(section)
        accepted += " or null" if optional(info.annotation) else ""
    else:
        accepted = in_words(info.annotation, info.metadata)
    kinds = set(_kinds(info.annotation))
    return Key(
        path=path,
        description=info.description or "",
        accepted=accepted,
        default=None if info.default is PydanticUndefined or section else as_yaml(info.default),
        peers=_peers(str(extra.get("peers", ""))),
        choices=tuple(str(choice) for choice in _choices(info.annotation)),
        numeric=bool(kinds & {int, float}) and bool not in kinds,
        textual=kinds <= {str, Path} and bool(kinds),
        section=section,
        optional=section is not None and optional(info.annotation),
    )


def _mapping_of(section: type[Section]) -> str:
    return f"a mapping with the keys {', '.join(section.model_fields)}"


def as_yaml(value: Any) -> str:
    """A value on one line, as it is written in YAML."""
    if isinstance(value, Path | tuple):
        value = str(value) if isinstance(value, Path) else list(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")


def _peers(text: str) -> tuple[tuple[str, str], ...]:
    """``"trl, verl: a, b; openrlhf: --c"`` -> (trl, a), (trl, b), (verl, a), ..."""
    pairs: list[tuple[str, str]] = []
    for part in filter(None, text.split(";")):
        frameworks, _, names = part.partition(":")
        pairs += [(f.strip(), n.strip()) for f in frameworks.split(",") for n in names.split(",")]
    return tuple(pairs)


# ---- types in words


def in_words(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """The values that a type with limits accepts, in words: ``a whole number, at least 1``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], [*arguments[1:], *limits])
    if origin in (Union, types.UnionType):
        parts = [in_words(kind, limits) for kind in arguments if kind is not type(None)]
        *first, last = [*parts, "null"] if type(None) in arguments else parts
        return (", or " if any("," in part for part in first) else " or ").join([*first, last])
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in arguments)}"
    if origin is list:
        return f"a list, each item {in_words(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {in_words(arguments[0])}"
    if origin is dict:
        return "a mapping"
    return KINDS.get(annotation, str(annotation)) + _limits_in_words(limits)


def _limits_in_words(limits: Sequence[Any]) -> str:
    low = high = ""
    for limit in _flat(limits):
        if isinstance(limit, annotated_types.Ge):
            low = f"at least {limit.ge}"
        elif isinstance(limit, annotated_types.Gt):
            low = f"above {limit.gt}"
        elif isinstance(limit, annotated_types.Le):
            high = f"at most {limit.le}"
        elif isinstance(limit, annotated_types.Lt):
            high = f"below {limit.lt}"
    both = " and ".join(filter(None, (low, high)))
    return f", {both}" if both else ""


def _flat(limits: Sequence[Any]) -> Iterator[Any]:
    for limit in limits:
        yield from limit.metadata if isinstance(limit, FieldInfo) else (limit,)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types an annotation is made of, null apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple):
        for kind in get_args(annotation):
            yield from _kinds(kind)
    elif annotation is not type(None):
        yield origin or annotation


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, types.UnionType, list):
        for kind in get_args(annotation):
            yield from _choices(kind)


# ---- finding the key that was meant


def _plain(name: str) -> str:
    return name.strip().lstrip("-").replace("-", "_").lower()


def _by_spelling(name: str, among: Sequence[Key]) -> str:
    paths = {key.name: key.path for key in reversed(among)}
    near = difflib.get_close_matches(name.lower(), list(paths), n=1, cutoff=0.7)
    return paths[near[0]] if near else ""


def _by_path(path: str, among: Sequence[Key]) -> str:
    near = difflib.get_close_matches(path.lower(), [key.path for key in among], n=1, cutoff=0.8)
    return near[0] if near else ""
