"""Another program's configuration in our words, by a table that says what each of its keys is here.

A table has a row for each key, nested as their files are or by dotted names::

    {to: KEY, default: VALUE}    goes to that key of ours, or to several of a list
    {as: NAME, default: VALUE}   the caller computes with it, under that name; without ``as``, under its own
    {only: [VALUE, ...]}         values that mean what happens here anyway; any other is an error
    {ignored: WHY}, or WHY       has no meaning here; the user is told why

Beside ``to``: ``map``, their values -> ours; ``off``, a value that means our 0; ``with``, other keys -> the values
without which this one has no effect. A key that ends in ``*`` stands for all that begin so, have no row, and lie in no
deeper section of the table. What a row has besides is of the command line: see ``arguments.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import yaml_source
from ..config.file import Draft
from ..errors import ConfigError, did_you_mean

Place = tuple[str | int, ...]
Row = Mapping[str, Any]
Placer = Callable[[Place], str]  # where a key was written, for messages
ANY = "*"
OF_TRANSLATION = {"to", "as", "default", "map", "off", "with", "only", "ignored"}
OF_ARGUMENTS = {"kind", "help", "many", "choices", "required", "min", "max"}
WORDS = OF_TRANSLATION | OF_ARGUMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows by their dotted key.

    Attributes:
        sections: the keys that were written side by side, by the section they are in; of these the nearest is named.
        unknown: what is said of a key without a row: ``{place}``, ``{name}``, ``{near}`` (the nearest, or nothing),
            ``{known}``, ``{hint}`` (the nearest, or what is known there).
        refused: what is said of a value that is not accepted: ``{value}``, ``{accepted}``, and the first three.
        unset: values that count as not given.
    """

    rows: Mapping[str, Row]
    sections: Mapping[str, Sequence[str]]
    unknown: str = "{place}: {name} is unknown{hint}"
    refused: str = "{place}: {name} is {value!r}; accepted: {accepted}"
    unset: Sequence[Any] = ()

    @staticmethod
    def of(written: Mapping[str, Any], *, reasons: Mapping[str, str] | None = None, **settings: Any) -> Table:
        """A table as it stands in YAML; ``reasons`` are texts that it names by a word."""
        rows, sections = dict[str, Row](), dict[str, list[str]]()
        for section, key, entry in _written(written, ()):
            sections.setdefault(section, []).append(key)
            if is_row(entry):
                name = f"{section}.{key}" if section else key
                rows[name] = {"ignored": (reasons or {}).get(entry, entry)} if isinstance(entry, str) else entry
        return Table(rows=rows, sections=sections, **settings)

    def read(self, values: Mapping[str, Any], place: Placer = lambda path: "configuration") -> Translation:
        """What values say. Raises ConfigError listing every unknown key, with the nearest one, and all else that is wrong."""
        found = Translation(self)
        found.give(values, place)
        return found.checked()

    def row(self, name: str) -> Row | None:
        """The row of a key, its own or that of its beginning; None if there is none."""
        if name in self.rows:
            return self.rows[name]
        section = self._section(name)
        known = [key for key in self.rows if key.endswith(ANY) and key.startswith(f"{section}." if section else "")]
        above = [key for key in known if name.startswith(key[:-1])]
        return self.rows[max(above, key=len)] if above else None

    def has_section(self, name: str) -> bool:
        """Whether a name is that of a section, not of a key."""
        return name not in self.rows and any(key.startswith(f"{name}.") for key in self.rows)

    def defaults(self) -> dict[str, Any]:
        """Values where nothing is said."""
        return {name: row["default"] for name, row in self.rows.items() if "default" in row and "ignored" not in row}

    def unknown_key(self, name: str, place: str) -> str:
        """What is said of a key without a row."""
        section = self._section(name)
        known = [key for key in self.sections.get(section, ()) if not key.endswith(ANY)]
        near = did_you_mean(name[len(section) + 1 :] if section else name, known)
        there = ", ".join(known)
        hint = near or f"; {section or 'there'} has {there}"
        return self.unknown.format(place=place, name=name, near=near, known=there, hint=hint)

    def _section(self, name: str) -> str:
        """The innermost section of the table that a key lies in; empty: none."""
        return max((one for one in self.sections if name.startswith(f"{one}.")), key=len, default="")

    def chosen(self, name: str, value: Any, choices: Mapping[Any, Any], place: str = "") -> Any:
        """What a value stands for among choices, whose case does not matter. Raises ConfigError for one that is not there."""
        known = {str(theirs).lower(): ours for theirs, ours in choices.items()}
        if str(value).lower() not in known:
            raise ConfigError(self.refusal(name, value, list(choices), place))
        return known[str(value).lower()]

    def refusal(self, name: str, value: Any, accepted: Sequence[Any], place: str, *, close: bool = True) -> str:
        """What is said of a value that is not accepted; ``close``: with the nearest one that is."""
        texts = [str(one).lower() if isinstance(one, bool) and isinstance(value, str) else str(one) for one in accepted]
        near = did_you_mean(str(value), texts) if close else ""
        return self.refused.format(place=place, name=name, value=value, near=near, accepted=", ".join(texts))


@dataclass(slots=True)
class Translation:
    """What a configuration under their keys says.

    Attributes:
        values: by their dotted keys; at first the table's defaults.
        places: where each was given; absent: a default.
        own: settings of ours, as ``key=value``.
        ignored: keys given that have no meaning here, with the reason.
        problems: what is wrong so far.
    """

    table: Table
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = {**self.table.defaults(), **self.values}

    @staticmethod
    def of_words(table: Table, file: Path | None, arguments: Sequence[str]) -> Translation:
        """Keys of a file, then ``name=value`` of the command line, where ``+key=value`` sets a key of ours.

        Raises:
            ConfigError: listing every key that is unknown and every value that is not accepted.
        """
        found = Translation(table)
        if file is not None:
            draft = Draft.from_file(file)
            found.problems += draft.problems
            found.give(draft.values, draft.place)
        for text in arguments:
            found.give_text(text)
        found.resolve_references()
        return found.checked()

    def give(self, values: Mapping[str, Any], place: Placer) -> None:
        """Take keys, nested or dotted; ``place`` tells where one was written, for messages."""
        for name, value, path in flat(values, self.table):
            self.give_value(name, value, place(path))

    def give_text(self, text: str) -> None:
        """Take ``name=value`` of the command line; the value is YAML, or text where it is none."""
        name, equals, written = text.partition("=")
        if not equals:
            self.problems.append(f"{text!r}: expected name=value")
        elif name.startswith("+") and name.lstrip("+") not in self.table.rows:
            self.own.append(text.lstrip("+"))
        else:
            document = yaml_source.parse(written)
            self.give_value(name.lstrip("+"), written if document.problems else document.value, f"argument {text}")

    def give_value(self, name: str, value: Any, place: str) -> None:
        """Take a value, or note why it cannot be taken."""
        table, row = self.table, self.table.row(name)
        if row is None and table.has_section(name):
            if value not in (None, "None"):
                self.problems.append(f"{place}: {name} is {value!r}, not a section")
        elif row is None:
            self.problems.append(table.unknown_key(name, place))
        elif "ignored" in row:
            if "default" not in row or value != row["default"]:
                self.ignored[name] = row["ignored"]
        elif "only" in row:
            if value not in row["only"]:
                self.problems.append(table.refusal(name, value, row["only"], place, close=False))
        elif value not in table.unset:
            self.values[name], self.places[name] = value, place

    def resolve_references(self) -> None:
        """Put in what ``${name}`` stands for."""
        for name, value in self.values.items():
            if not isinstance(value, str) or "${" not in value:
                continue
            self.values[name] = re.sub(r"\$\{([\w.]+)\}", lambda found: str(self.values.get(found[1], found[0])), value)
            if "${" in self.values[name]:
                self.problems.append(f"{self.place(name)}: {name} is {value!r}, which refers to nothing that is set")

    def checked(self) -> Translation:
        """Itself. Raises ConfigError listing all that is wrong."""
        found = self.problems
        if found:
            raise ConfigError(found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} problems:", *found]))
        return self

    def named(self) -> dict[str, Any]:
        """What the caller computes with, under the names that the table gives it; values without a row among it."""
        rows = self.table.rows
        return {
            rows.get(name, {}).get("as", name): value
            for name, value in self.values.items()
            if "to" not in rows.get(name, {})
        }

    def ours(self) -> dict[str, Any]:
        """Our dotted key -> value. Raises ConfigError for a value that is not in its row's ``map``."""
        return {key: value for _, key, value in self._keys()}

    def put_keys(self, draft: Draft) -> None:
        """Give a draft all that goes to keys of ours. Raises ConfigError for a value that its row's ``map`` lacks."""
        for name, key, value in self._keys():
            draft.put(tuple(int(part) if part.isdigit() else part for part in key.split(".")), value, self.place(name))

    def _keys(self) -> Iterator[tuple[str, str, Any]]:
        """(their key, ours, value), in the order of the table; null is left out."""
        for name, row in self.table.rows.items():
            if "to" not in row or name not in self.values:
                continue
            without = [
                f"{other}={self.get(other)}" for other, of in row.get("with", {}).items() if self.get(other) not in of
            ]
            if without:
                self.ignored[name] = f"it has no effect with {', '.join(without)}"
                continue
            value = self.values[name]
            if "off" in row and value == row["off"]:
                value = 0
            elif "map" in row and value is not None:
                value = self.choice(name)
            for key in [row["to"]] if isinstance(row["to"], str) else row["to"]:
                if value is not None:
                    yield name, key, value

    def place(self, name: str) -> str:
        """Where a value was given."""
        return self.places.get(name, f"default of {name}")

    def get(self, name: str) -> Any:
        """A value, None where there is none."""
        return self.values.get(name)

    def number(self, name: str) -> float:
        """A value that is a number. Raises ConfigError where it is none."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.place(name)}: {name} is {value!r}; accepted: a number")
        return value

    def flag(self, name: str) -> bool:
        """A value that is true or false; absent: false. Raises ConfigError for anything else."""
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.place(name)}: {name} is {value!r}; accepted: true, false")
        return value

    def choice(self, name: str, choices: Mapping[Any, Any] | None = None) -> Any:
        """What a value stands for among choices, or in its row's ``map``. Raises ConfigError for one that is not there."""
        known = self.table.rows[name]["map"] if choices is None else choices
        return self.table.chosen(name, self.values.get(name), known, self.place(name))

    def require(self, names: Sequence[str]) -> None:
        """Raise ConfigError unless each of the keys has a value."""
        missing = [name for name in names if not self.values.get(name)]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be given, like {missing[0]}=...")

    def told(self) -> str:
        """One line on what was given and has no meaning here; empty if all has."""
        return "ignored: " + "; ".join(f"{name} ({why})" for name, why in self.ignored.items()) if self.ignored else ""


def is_row(entry: Any) -> bool:
    """Whether an entry of a table is the row of a key, not a section with keys in it.

    Raises:
        ConfigError: a row with a word that is none.
    """
    if isinstance(entry, str):
        return True
    others = set(entry) - WORDS
    if others and "to" in entry:
        raise ConfigError(f"row {entry} of a table: {', '.join(sorted(others))}; a row has {', '.join(sorted(WORDS))}")
    return not others


def flat(values: Mapping[str, Any], table: Table, path: Place = ()) -> Iterator[tuple[str, Any, Place]]:
    """(dotted key, value, place in the file) of values nested as deep as the table's sections are."""
    for key, value in values.items():
        here = (*path, str(key))
        name = ".".join(map(str, here))
        if isinstance(value, Mapping) and table.has_section(name):
            yield from flat(value, table, here)
        else:
            yield name, value, here


def _written(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """(section, key in it, row or section) of a table, however deep."""
    for key, entry in table.items():
        yield ".".join(path), key, entry
        if not is_row(entry):
            yield from _written(entry, (*path, key))
