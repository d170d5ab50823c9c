"""Another program's configuration in our words: a table in YAML gives the meaning of each of its keys.

A table has one row per key, nested in sections as the program's own files are, or under dotted names. A row is one of::

    lr: {to: train.learning_rate, default: 1.0e-6}   goes to our key, or to each of a list of keys
    epochs: {as: passes, default: 1}                 is computed with by the recipe, as `passes` (without `as`: `epochs`)
    precision: {only: [fp32, bf16]}                  changes nothing; any other value is an error (`only: []`: every one)
    world: {ignored: the launcher decides}           has no meaning here; the user is told why
    world: the launcher decides                      the same; the text may also be the name of one of ``reasons``

A row that is computed with may name our key that comes of it (``sets: model.dtype``), for messages about that key.

A key without a row is an error that names the nearest key. More words of a row with ``to``::

    map: {cos: cosine}                               their values -> ours; any other value is an error
    off: -1                                          the value that stands for our 0
    with: {schedule: [cos]}                          the row has an effect only where these keys have one of these values

A key that ends in ``*`` stands for all keys that begin so, have no row, and lie in no deeper section of the table. Rows
may also have words for the command line: see ``arguments.py``. For example, the table ::

    optim: {lr: {to: train.learning_rate, default: 1.0e-6}, style: {to: train.schedule, map: {cos: cosine}}}
    epochs: {as: passes, default: 1}
    world: the launcher decides

and the file ``{optim: {style: cos}, epochs: 3, world: 8}`` give::

    translation = Table.parse(table).read(file)
    translation.our_values()    {"train.learning_rate": 1e-6, "train.schedule": "cosine"}
    translation.named_values()  {"passes": 3}
    translation.ignored         {"world": "the launcher decides"}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import yaml_source
from ..config.file import Draft
from ..config.offline import OfflineConfig
from ..config.run import RunConfig
from ..errors import ConfigError, did_you_mean

Place = tuple[str | int, ...]
Row = Mapping[str, Any]
Placer = Callable[[Place], str]  # path of a key -> where it was written, for messages
ANY = "*"
OF_TRANSLATION = {"to", "as", "default", "map", "off", "with", "only", "ignored", "sets"}
OF_ARGUMENTS = {"kind", "help", "many", "alone", "choices", "required", "min", "max"}
WORDS = OF_TRANSLATION | OF_ARGUMENTS
UNKNOWN = "{place}: {name} is unknown{hint}"
REFUSED = "{place}: {name} is {value!r}; accepted: {accepted}"
OUR_SECTIONS = frozenset(RunConfig.model_fields) | frozenset(OfflineConfig.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows by their dotted key.

    Attributes:
        sections: section -> the keys written side by side in it, among which the nearest to an unknown key is looked for.
        unknown: message for a key without a row: ``{place}``, ``{name}``, ``{near}`` (the nearest key, or nothing),
            ``{known}``, ``{hint}`` (the nearest key, or all known ones).
        refused: message for a value that is not accepted: ``{value}``, ``{accepted}``, and the first three above.
        unset: values that count as not given.
    """

    rows: Mapping[str, Row]
    sections: Mapping[str, Sequence[str]]
    unknown: str = UNKNOWN
    refused: str = REFUSED
    unset: Sequence[Any] = ()

    @staticmethod
    def parse(
        written: Mapping[str, Any],
        *,
        reasons: Mapping[str, str] | None = None,
        unknown: str = UNKNOWN,
        refused: str = REFUSED,
        unset: Sequence[Any] = (),
    ) -> Table:
        """Build a table from its YAML values.

        Args:
            reasons: name -> text, for rows that name a reason by one word.
            unknown, refused, unset: see the attributes.
        """
        rows, sections = dict[str, Row](), dict[str, list[str]]()
        for section, key, entry in _written(written, ()):
            sections.setdefault(section, []).append(key)
            if is_row(entry):
                name = f"{section}.{key}" if section else key
                rows[name] = {"ignored": (reasons or {}).get(entry, entry)} if isinstance(entry, str) else entry
        return Table(rows=rows, sections=sections, unknown=unknown, refused=refused, unset=unset)

    def read(self, values: Mapping[str, Any], place: Placer = lambda path: "configuration") -> Translation:
        """Translate a file's values.

        Raises:
            ConfigError: lists every unknown key, with the nearest known one, and every value that is not accepted.
        """
        translation = Translation(self)
        translation.take(values, place)
        return translation.checked()

    def row(self, name: str) -> Row | None:
        """Return the row of a key: its own, else the longest that stands for its beginning; None without one."""
        if name in self.rows:
            return self.rows[name]
        section = self._section(name)
        starred = [key for key in self.rows if key.endswith(ANY) and key.startswith(f"{section}." if section else "")]
        fitting = [key for key in starred if name.startswith(key[:-1])]
        return self.rows[max(fitting, key=len)] if fitting else None

    def has_section(self, name: str) -> bool:
        """Return whether a name is that of a section, not of a key."""
        return name not in self.rows and any(key.startswith(f"{name}.") for key in self.rows)

    def defaults(self) -> dict[str, Any]:
        """Return the values of keys that a file leaves out."""
        return {name: row["default"] for name, row in self.rows.items() if "default" in row and "ignored" not in row}

    def unknown_key(self, name: str, place: str) -> str:
        """Return the message for a key without a row."""
        section = self._section(name)
        known = [key for key in self.sections.get(section, ()) if not key.endswith(ANY)]
        near = did_you_mean(name[len(section) + 1 :] if section else name, known)
        listed = ", ".join(known)
        hint = near or f"; {section or 'there'} has {listed}"
        return self.unknown.format(place=place, name=name, near=near, known=listed, hint=hint)

    def _section(self, name: str) -> str:
        """Return the innermost section of the table that a key lies in; empty: none."""
        return max((one for one in self.sections if name.startswith(f"{one}.")), key=len, default="")

    def choose(self, name: str, value: Any, choices: Mapping[Any, Any], place: str = "") -> Any:
        """Return our value for theirs, whose case does not matter; raises ConfigError for a value without a choice."""
        known = {str(theirs).lower(): ours for theirs, ours in choices.items()}
        if str(value).lower() not in known:
            raise ConfigError(self.refusal(name, value, list(choices), place))
        return known[str(value).lower()]

    def refusal(self, name: str, value: Any, accepted: Sequence[Any], place: str, *, close: bool = True) -> str:
        """Return the message for a value that is not accepted; with ``close``, it names the nearest accepted one."""
        texts = [str(one).lower() if isinstance(one, bool) and isinstance(value, str) else str(one) for one in accepted]
        near = did_you_mean(str(value), texts) if close else ""
        return self.refused.format(place=place, name=name, value=value, near=near, accepted=", ".join(texts))


@dataclass(slots=True)
class Translation:
    """A configuration under their keys, and its meaning under ours.

    Attributes:
        values: dotted key -> value; at first the table's defaults.
        places: dotted key -> where it was given; absent for defaults.
        our_settings: settings under our own keys, as ``key=value``.
        ignored: keys given that have no meaning here and change no number -> the reason.
        changes: sentences on numbers that differ from theirs.
        problems: messages on what is wrong so far.
    """

    table: Table
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    our_settings: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = {**self.table.defaults(), **self.values}

    @staticmethod
    def from_words(table: Table, file: Path | None, arguments: Sequence[str]) -> Translation:
        """Read a file, then ``name=value`` arguments as Hydra has them.

        ``+name=value`` adds a key of theirs, or sets one of ours; ``~name`` takes back what was given for a key or for a
        whole section, so that its default holds.

        Raises:
            ConfigError: lists every unknown key and every value that is not accepted.
        """
        translation = Translation(table)
        if file is not None:
            draft = Draft.from_file(file)
            translation.problems += draft.problems
            translation.take(draft.values, draft.place)
        for text in arguments:
            translation.take_argument(text)
        translation.resolve_references()
        return translation.checked()

    def take(self, values: Mapping[str, Any], place: Placer) -> None:
        """Take values of nested or dotted keys; ``place`` tells where a key was written, for messages."""
        for name, value, path in flat(values, self.table):
            self.take_value(name, value, place(path))

    def take_argument(self, text: str) -> None:
        """Take ``name=value`` or ``~name`` of the command line; the value is YAML, or else text."""
        name, equals, written = text.partition("=")
        plain = name.lstrip("+")
        if name.startswith("~"):
            self.take_back(name[1:], f"argument {text}")
        elif not equals:
            self.problems.append(f"{text!r}: expected name=value")
        elif name != plain and plain not in self.table.rows and plain.partition(".")[0] in OUR_SECTIONS:
            self.our_settings.append(text.lstrip("+"))
        else:
            document = yaml_source.parse(written)
            self.take_value(plain, written if document.problems else document.value, f"argument {text}")

    def take_back(self, name: str, place: str) -> None:
        """Forget what was given for a key, or for all keys of a section; an unknown name is noted."""
        table, defaults = self.table, self.table.defaults()
        if table.row(name) is None and not table.has_section(name):
            self.problems.append(table.unknown_key(name, place))
        for given in [key for key in {*self.values, *self.ignored} if key == name or key.startswith(f"{name}.")]:
            for kept in (self.values, self.places, self.ignored):
                kept.pop(given, None)
            if given in defaults:
                self.values[given] = defaults[given]

    def take_value(self, name: str, value: Any, place: str) -> None:
        """Take a value, or note why it cannot be taken."""
        table, row = self.table, self.table.row(name)
        if row is None and table.has_section(name):
            if value not in (None, "None", {}):
                self.problems.append(f"{place}: {name} is {value!r}, not a section")
        elif row is None:
            self.problems.append(table.unknown_key(name, place))
        elif "ignored" in row:
            if "default" not in row or value != row["default"]:
                self.ignored[name] = row["ignored"]
        elif "only" in row:
            if value not in row["only"]:
                accepted = row["only"] or ["nothing: it has no counterpart here"]
                self.problems.append(table.refusal(name, value, accepted, place, close=False))
        elif value not in table.unset:
            self.values[name], self.places[name] = value, place

    def resolve_references(self) -> None:
        """Replace ``${name}`` in texts by the value of that key."""
        for name, value in self.values.items():
            if not isinstance(value, str) or "${" not in value:
                continue
            self.values[name] = re.sub(r"\$\{([\w.]+)\}", lambda match: str(self.values.get(match[1], match[0])), value)
            if "${" in self.values[name]:
                self.problems.append(f"{self.place(name)}: {name} is {value!r}, which refers to nothing that is set")

    def checked(self) -> Translation:
        """Return self, or raise ConfigError listing every problem."""
        problems = self.problems
        if problems:
            raise ConfigError(
                problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems])
            )
        return self

    def named_values(self) -> dict[str, Any]:
        """Return the values that the recipe computes with, under their names in the table."""
        rows = self.table.rows
        return {
            rows.get(name, {}).get("as", name): value
            for name, value in self.values.items()
            if "to" not in rows.get(name, {})
        }

    def our_values(self) -> dict[str, Any]:
        """Return our dotted key -> value; raises ConfigError for a value that its row's ``map`` lacks."""
        return {key: value for _, key, value in self._keys()}

    def put_keys(self, draft: Draft) -> None:
        """Put all values that go to our keys into a draft; raises ConfigError for a value that its row's ``map`` lacks."""
        for name, key, value in self._keys():
            draft.put(tuple(int(part) if part.isdigit() else part for part in key.split(".")), value, self.place(name))

    def _keys(self) -> Iterator[tuple[str, str, Any]]:
        """Yield (their key, our key, value) in the order of the table, without nulls."""
        for name, row in self.table.rows.items():
            if "to" not in row or name not in self.values:
                continue
            hindering = [
                f"{other}={self.get(other)}"
                for other, values in row.get("with", {}).items()
                if self.get(other) not in values
            ]
            if hindering:
                self.ignored[name] = f"it has no effect with {', '.join(hindering)}"
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
        """Return where a value was given, for messages."""
        return self.places.get(name, f"default of {name}")

    def get(self, name: str) -> Any:
        """Return a value; None without one."""
        return self.values.get(name)

    def number(self, name: str) -> float:
        """Return a value that must be a number; raises ConfigError for anything else."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.place(name)}: {name} is {value!r}; accepted: a number")
        return value

    def flag(self, name: str) -> bool:
        """Return a value that must be true or false, absent: false; raises ConfigError for anything else."""
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.place(name)}: {name} is {value!r}; accepted: true, false")
        return value

    def choice(self, name: str, choices: Mapping[Any, Any] | None = None) -> Any:
        """Return our value for theirs, by ``choices`` or its row's ``map``; raises ConfigError for a value without one."""
        known = self.table.rows[name]["map"] if choices is None else choices
        return self.table.choose(name, self.values.get(name), known, self.place(name))

    def require(self, names: Sequence[str]) -> None:
        """Raise ConfigError unless each of the keys has a value."""
        missing = [name for name in names if not self.values.get(name)]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be given, like {missing[0]}=...")

    def notes(self) -> list[str]:
        """Return a line for each reason with the keys that it ignores, most keys first, and at last what changes numbers."""
        by_reason: dict[str, list[str]] = {}
        for name, why in self.ignored.items():
            by_reason.setdefault(why, []).append(name)
        most_first = sorted(by_reason.items(), key=lambda group: -len(group[1]))
        ignored = [f"ignored, {why}: {', '.join(names)}" for why, names in most_first]
        return [*ignored, *(f"differs: {text}" for text in self.changes)]

    def in_their_words(self, text: str) -> str:
        """Return a message with their names of the keys of ours that it mentions."""
        names: dict[str, list[str]] = {}
        for name, row in self.table.rows.items():
            ours = row.get("to", row.get("sets", []))
            for key in [ours] if isinstance(ours, str) else ours:
                names.setdefault(key, []).append(name)
        said = {
            key: theirs for key, theirs in names.items() if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", text)
        }
        lines = [f"  here {key} is set by {', '.join(theirs)}" for key, theirs in said.items()]
        return "\n".join([text, *lines])


def is_row(entry: Any) -> bool:
    """Return whether an entry of a table is the row of a key, not a section with keys in it.

    Raises:
        ConfigError: a row has an unknown word.
    """
    if isinstance(entry, str):
        return True
    others = set(entry) - WORDS
    if others and "to" in entry:
        raise ConfigError(f"row {entry} of a table: {', '.join(sorted(others))}; a row has {', '.join(sorted(WORDS))}")
    return not others


def flat(values: Mapping[str, Any], table: Table, path: Place = ()) -> Iterator[tuple[str, Any, Place]]:
    """Yield (dotted key, value, path in the file) of values, nested as deep as the table's sections."""
    for key, value in values.items():
        here = (*path, str(key))
        name = ".".join(map(str, here))
        if isinstance(value, Mapping) and table.has_section(name):
            yield from flat(value, table, here)
        else:
            yield name, value, here


def _written(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """Yield (section, key in it, row or section) of a table at any depth."""
    for key, entry in table.items():
        yield ".".join(path), key, entry
        if not is_row(entry):
            yield from _written(entry, (*path, key))
