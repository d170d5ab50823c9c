"""A configuration from a YAML file and ``key=value`` overrides, and back.

Every problem of a configuration is reported at once, each with its place (``file:line`` or the override)
and with what is accepted there.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from ..errors import ConfigError
from . import yaml_source
from .keys import Catalogue, Key, catalogue, dotted, record_path
from .offline import OfflineConfig
from .paths import REFUSED as REFUSED_PATH
from .run import RunConfig

Place = tuple[str | int, ...]
AnyConfig = RunConfig | OfflineConfig


def load_config(path: Path, overrides: Sequence[str]) -> AnyConfig:
    """The configuration of a YAML file, with ``key=value`` overrides (``rewards.0.weight=2``) applied.

    With a section ``objective`` it trains on a fixed dataset; else it is an online run.

    Raises:
        ConfigError: listing everything that is wrong.
    """
    return read_config(path, overrides)[0]


def read_config(path: Path, overrides: Sequence[str]) -> tuple[AnyConfig, Draft]:
    """Like :func:`load_config`, with the draft that knows where each key was written."""
    draft = Draft.from_file(path)
    return draft.with_overrides(overrides).validated(), draft


def dump(config: AnyConfig) -> str:
    """The configuration as YAML that :func:`load_config` reads back to an equal one."""
    return yaml_source.dump(plain_values(config))


def plain_values(config: AnyConfig) -> dict[str, Any]:
    """The configuration as the plain values that its file would have."""
    values: dict[str, Any] = config.model_dump(mode="json")
    if config.train.epochs is not None:
        del values["train"]["steps"]  # follows from the epochs and the rows
    return values


def json_schema(root: type[AnyConfig] | None = None) -> dict[str, Any]:
    """JSON schema of a configuration file, for editors: of both kinds, told apart by ``objective``, or of one."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    if root is not None:
        title = f"mindrlhf-grpo configuration{', fixed dataset' if root is OfflineConfig else ''}"
        return {**head, **root.model_json_schema(), "title": title}
    _, both = models_json_schema([(RunConfig, "validation"), (OfflineConfig, "validation")])
    return {
        **head,
        "title": "mindrlhf-grpo configuration",
        "type": "object",
        "if": {"required": ["objective"]},
        "then": {"$ref": "#/$defs/OfflineConfig"},
        "else": {"$ref": "#/$defs/RunConfig"},
        "$defs": both["$defs"],
    }


def schema_text(root: type[AnyConfig] | None = None) -> str:
    """The JSON schema as the files ``docs/config.schema.json`` and ``docs/offline.schema.json`` hold it."""
    return json.dumps(json_schema(root), indent=1, ensure_ascii=False) + "\n"


@dataclass(slots=True)
class Draft:
    """A configuration before validation: plain values, where each was written, and what is wrong so far."""

    values: dict[str, Any]
    name: str = "command line"
    places: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def offline(self) -> bool:
        """True for training on a fixed dataset."""
        return "objective" in self.values

    @property
    def keys(self) -> Catalogue:
        """The keys that this kind of configuration has."""
        return catalogue(OfflineConfig if self.offline else RunConfig)

    @staticmethod
    def from_file(path: Path) -> Draft:
        """Read a YAML file; problems inside it are kept, a file that cannot be read at all raises."""
        document = yaml_source.parse(_read_text(path))
        draft = Draft({}, str(path))
        draft.places = {place: f"{path}:{line}" for place, line in document.lines.items()}
        draft.problems = [f"{path}:{line}: {text}" for line, text in document.problems]
        if not isinstance(document.value, dict):
            what = "is empty" if document.value is None else f"holds {_show(document.value)}, not a mapping"
            empty = f"{path} {what}; {top_level(catalogue())}"
            raise ConfigError(_listed(draft.problems or [empty]))
        draft.values = document.value
        return draft

    def with_overrides(self, overrides: Sequence[str]) -> Draft:
        """Set ``key=value`` texts, in order; later ones win."""
        for text in overrides:
            try:
                self._override(text)
            except ConfigError as error:
                self.problems.append(f"override {text}: {error}")
        return self

    def validated(self) -> AnyConfig:
        """The typed configuration.

        Raises:
            ConfigError: listing every problem with its place.
        """
        self._settle(self.values, ())
        try:
            config: AnyConfig = (OfflineConfig if self.offline else RunConfig).model_validate(self.values)
        except ValidationError as error:
            self.problems += dict.fromkeys(self._describe(error))
        if self.problems:
            raise ConfigError(_listed(sorted(self.problems, key=self._order)))
        return config

    def _order(self, problem: str) -> tuple[bool, int]:
        """Problems in the order of the file; those of no line, then overrides, come last."""
        line = re.match(re.escape(self.name) + r":(\d+):", problem)
        return (line is None, int(line[1]) if line else 0)

    def place(self, path: Place) -> str:
        """The place where a key was written: ``file:line``, ``override key=value``, or the file if it was not written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.name

    def _override(self, text: str) -> None:
        key, equals, written = text.partition("=")
        path: Place = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
        if not equals or not key.strip():
            raise ConfigError("expected key=value, like train.steps=20")
        if path[0] == "objective":
            self.values.setdefault("objective", {})
        record = self.keys.records.get(record_path(path))
        if record is None and not _inside_free_mapping(path, self.keys):
            raise ConfigError(_unknown(path, self.keys))
        self.put(path, _parse_override(written, record), f"override {text}")

    def put(self, path: Place, value: Any, place: str) -> None:
        """Set the value at a path, making what is absent above it; ``place`` is where it was given.

        Raises:
            ConfigError: an index that is no item of its list.
        """
        parent: Any = self.values
        for part, following in itertools.pairwise(path):
            parent = _step_into(parent, part, following, path)
        last = path[-1]
        if isinstance(parent, list):
            _check_index(parent, last, path)
            parent[int(last) :] = [value, *parent[int(last) + 1 :]]
        else:
            parent[str(last)] = value
        self.places = {known: at for known, at in self.places.items() if known[: len(path)] != path}
        self.places[path] = place

    def _settle(self, values: dict[str, Any], path: Place) -> None:
        """Before pydantic: an empty section takes its defaults, and true/false is no number."""
        for name, value in list(values.items()):
            here = (*path, name)
            record = self.keys.records.get(record_path(here))
            if record is None:
                continue
            if record.section and value is None and not (record.optional or record.accepted.startswith("a list")):
                values[name] = {}
            elif record.numeric and isinstance(value, bool):
                self.problems.append(self._not_accepted(here, value, record))
                del values[name]
            elif record.section and isinstance(value, dict):
                self._settle(value, here)
            elif record.section and isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, dict):
                        self._settle(item, (*here, index))

    def _describe(self, error: ValidationError) -> Iterator[str]:
        for detail in error.errors():
            where: Place = tuple(detail["loc"])
            path = _key_path(where, self.keys)
            record = self.keys.records.get(record_path(path))
            if detail["type"] == "extra_forbidden":
                yield from self._unknown_keys(where, detail["input"])
            elif detail["type"] == "missing" and path == where:
                yield f"{self.place(where)}: missing {_missing(where, self.keys)}"
            elif detail["type"] == REFUSED_PATH:
                yield f"{self.place(path)}: {dotted(path)}: {detail['msg']}"
            elif record is None:  # a rule between keys: our own text, one line per rule
                for rule in str(detail.get("ctx", {}).get("error", detail["msg"])).splitlines():
                    yield f"{self.place(tuple(rule.split(' ', 1)[0].split('.')))}: {rule}"
            else:
                place = where if where in self.places else path
                yield self._not_accepted(place, detail["input"], record)

    def _unknown_keys(self, path: Place, value: Any) -> Iterator[str]:
        """One problem for an unknown key; for an unknown section that peers have, one for each key in it."""
        if len(path) == 1 and (other := self._other_kind(str(path[0]))):
            yield f"{self.place(path)}: {other}"
            return
        deeper = [(*path, name) for name in value] if isinstance(value, dict) else []
        if deeper and not self.keys.suggestion(path) and any(self.keys.suggestion(inner) for inner in deeper):
            for inner in deeper:
                yield f"{self.place(inner)}: {_unknown(inner, self.keys)}"
        else:
            yield f"{self.place(path)}: {_unknown(path, self.keys)}"

    def _other_kind(self, name: str) -> str:
        """The problem of a section that belongs to the other kind of configuration; empty for other names."""
        other = catalogue(RunConfig if self.offline else OfflineConfig)
        if "." in name or name in self.keys.records or name not in other.records:
            return ""
        if self.offline:
            return (
                f"{name} belongs to an online run, and objective to training on a fixed dataset; leave out one of them"
            )
        return f"{name} belongs to training on a fixed dataset, and this is an online run: it has no objective"

    def _not_accepted(self, path: Place, value: Any, record: Key) -> str:
        near = difflib.get_close_matches(str(value).lower(), record.choices, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        if record.section and isinstance(value, str) and ":" in value:
            hint = "is a space missing after the colon? "
        return f"{self.place(path)}: {dotted(path)}: {_show(value)} is not accepted; {hint}it takes {record.accepted}"


# ---- pieces


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist{_nearest_file(path)}") from None
    except IsADirectoryError:
        files = ", ".join(sorted(file.name for file in path.glob("*.y*ml"))) or "no YAML file"
        raise ConfigError(f"{path} is a folder; give the configuration file in it ({files})") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {folder}"
    names = [file.name for file in sorted(folder.glob("*.y*ml"))]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {folder / near[0]}?"
    return f"; {folder} has {', '.join(names[:8])}" if names else f"; {folder} has no YAML file"


def _inside_free_mapping(path: Place, keys: Catalogue) -> bool:
    """True for a path into a mapping whose keys are the user's: data.source, rewards.N.arguments, ..."""
    above = (keys.records.get(record_path(path[:length])) for length in range(1, len(path)))
    return any(key is not None and "a mapping" in key.accepted and key.section is None for key in above)


def _parse_override(written: str, record: Key | None) -> Any:
    document = yaml_source.parse(written)
    plain = document.value is None or isinstance(document.value, str)
    if record is not None and record.textual and (document.problems or not plain):
        return written.strip()  # a key that takes only text: 5, true or {{x}} need no quotes
    if document.problems:
        raise ConfigError(document.problems[0][1])
    return document.value


def _step_into(parent: Any, part: str | int, following: str | int, path: Place) -> Any:
    """The value one step down, made where absent."""
    if isinstance(parent, list):
        _check_index(parent, part, path)
        if part == len(parent):
            parent.append({})
        return parent[int(part)]
    inner = parent.get(str(part))
    container = list if isinstance(following, int) and record_path((part,)) == "rewards" else dict
    if not isinstance(inner, dict | list):
        inner = parent[str(part)] = container()
    return inner


def _check_index(items: list[Any], index: str | int, path: Place) -> None:
    if not isinstance(index, int) or index > len(items):
        raise ConfigError(f"{index} is no item of {dotted(path[:1])}, which has {len(items)}; indices start at 0")


def _key_path(where: Place, keys: Catalogue) -> Place:
    """The longest part of a pydantic location that is a key of ours."""
    for length in range(len(where), 0, -1):
        if record_path(where[:length]) in keys.records:
            return where[:length]
    return ()


def _unknown(path: Place, keys: Catalogue) -> str:
    if "." in str(path[-1]) and str(path[-1]) in keys.records:
        section, _, name = str(path[-1]).rpartition(".")
        return f"unknown key {dotted(path)}; in a file it is nested: {name} under {section}"
    index = next((part for part in path[:-1] if isinstance(part, int)), "N")
    meant = keys.suggestion(path).replace(".N.", f".{index}.")
    if not meant:
        above = path[:-1]
        while above and getattr(keys.records.get(record_path(above)), "section", None) is None:
            above = above[:-1]  # the nearest section of ours that the key lies in
        names = ", ".join(key.name for key in keys.children(record_path(above)))
        meant = f"{dotted(above)} has {names}" if above else top_level(keys)
    return f"unknown key {dotted(path)}; {meant}"


def top_level(keys: Catalogue) -> str:
    """The sections of a configuration, in a sentence."""
    names = ", ".join(key.name for key in keys.children(""))
    return f"a configuration has {names}{'' if 'objective' in keys.records else '; or objective, on a fixed dataset'}"


def _missing(path: Place, keys: Catalogue) -> str:
    record = keys.records[record_path(path)]
    if record.section is None:
        return f"key {dotted(path)}, {record.accepted}: {record.description}"
    inner = f"{record.path}.N" if record.accepted.startswith("a list") else record.path
    needed = [key.name for key in keys.children(inner) if key.default is None and key.section is None]
    return f"section {dotted(path)}, {record.accepted}; {' and '.join(needed)} must be given"


def _show(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        value = dict(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("-inf" if value < 0 else "inf")
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems:", *problems])
