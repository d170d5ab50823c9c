"""YAML text as plain values, with the place of every key.

Only YAML's safe core: null, true/false, numbers, text, lists, mappings. Numbers and booleans follow
YAML 1.2, so that ``1e-5`` is a number and ``on`` is text; keys that take true or false accept on/off too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

Path: TypeAlias = tuple[str | int, ...]
MAX_VALUES = 100_000  # aliases can multiply: a few lines may stand for billions of values

REFUSED = object()  # in place of a value that has been reported

TAG = "tag:yaml.org,2002:"
RESOLVERS: list[tuple[str, str, list[str]]] = [
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
    ("merge", r"^<<$", ["<"]),
]


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's plain scalars."""


class Dumper(yaml.SafeDumper):
    """Quotes what either YAML version would read as something else than text."""


Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in RESOLVERS:
    Loader.add_implicit_resolver(TAG + _tag, re.compile(_pattern), _first)
    Dumper.add_implicit_resolver(TAG + _tag, re.compile(_pattern), _first)


@dataclass(slots=True)
class Document:
    """A parsed document.

    Attributes:
        value: the plain value, a mapping for a configuration file.
        lines: line of each key and item, by its path.
        problems: (line, text) of everything that is wrong with it.
    """

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


def parse(text: str) -> Document:
    """Read one YAML document; what is wrong with it is in ``problems``, with 1-based lines."""
    document = Document()
    try:
        root = yaml.compose(text, Loader=Loader)
        value = None if root is None else _Reader(document).read(root, ())
        document.value = None if value is REFUSED else value
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax_error(error, text))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        document.problems.append((line, f"invalid YAML: character {text[error.position]!r} is not allowed"))
    except RecursionError:
        document.problems.append((1, "invalid YAML: nested too deeply, or an alias that contains itself"))
    except _TooLarge:
        document.problems.append((1, f"invalid YAML: aliases expand to more than {MAX_VALUES} values"))
    return document


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """Text with line breaks that only Unicode knows goes in double quotes, where they are escaped."""
    style = '"' if any(character in text for character in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar(TAG + "str", text, style=style)


Dumper.add_representer(str, _represent_text)


def dump(value: Any) -> str:
    """Plain values as YAML that :func:`parse` reads back unchanged."""
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _TooLarge(Exception):
    """Aliases expand beyond MAX_VALUES."""


class _Reader:
    """Turns nodes into values, noting lines and problems in a document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooLarge
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            items = [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
            return [item for item in items if item is not REFUSED]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        return self._refuse(node, f"tag {node.tag} is not accepted")

    def _item(self, node: yaml.Node, path: Path) -> Any:
        self.document.lines[path] = _line(node)
        return self.read(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == TAG + "merge":
                values = {**self._merged(value_node, path), **values}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, "a key must be text")
                continue
            name = key_node.value
            if name in first_line:
                where = "".join(f"{part}." for part in path)
                self._refuse(key_node, f"duplicate key {where}{name}, already on line {first_line[name]}")
                continue
            here: Path = (*path, name)
            first_line[name] = self.document.lines[here] = _line(key_node)
            value = self.read(value_node, here)
            if value is not REFUSED:
                values[name] = value
        return values

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        """The keys that ``<<: *alias`` brings; keys written out win."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in reversed(parts):
            value = self.read(part, path)
            if isinstance(value, dict):
                merged.update(value)
            else:
                self._refuse(part, "<<: takes a mapping or a list of mappings")
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(TAG), node.value
        try:
            if kind == "str" or kind == "merge":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, 0) if text[1:2] in ("o", "x") else int(text)
            if kind == "float":
                return float(re.sub(r"\.(?=inf$|nan$)", "", text.lower()))
        except (ValueError, KeyError):
            return self._refuse(node, f"{text!r} is not a YAML {kind}")
        return self._refuse(node, f"tag {node.tag} is not accepted")

    def _refuse(self, node: yaml.Node, text: str) -> object:
        self.document.problems.append((_line(node), text))
        return REFUSED


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    lines = text.splitlines()
    line = lines[number - 1] if number <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in str(error.problem):
        return number, "invalid YAML: a tab; indent with spaces"
    hint = ""
    if "mapping values are not allowed" in str(error.problem):
        hint = " (text that contains ': ' must be quoted; check the indentation)"
    elif "could not find expected ':'" in str(error.problem):
        hint = " (a key is written `key: value`, with a space after the colon)"
    elif "expected a single document" in str(error.context):
        return number, "invalid YAML: `---` starts a second document; a configuration is one"
    context = f" {error.context}" if error.context else ""
    return number, f"invalid YAML:{context} {error.problem}{hint}".replace("  ", " ")
