"""The settings of another code base, by its own dotted names, read by a table that says what each name is here.

A file has them nested or dotted, the command line as ``name=value``; ``+key=value`` sets a key of ours. Every name is
used, ignored with a reason that the user is told, or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import yaml_source
from ..config_file import Draft
from ..errors import ConfigError
from ..nearest import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTable:
    """What the names of a code base are here.

    Attributes:
        peer: whose names they are.
        defaults: values that hold where the user says nothing.
        keys: name -> ``to``: our key, or several; ``choices``: its values -> ours; ``off``: a value that means our 0;
            ``with``: other names -> the values without which this one has no effect.
        rules: names that a caller reads for itself.
        only: name -> the values that mean what happens here anyway; any other is an error.
        ignored: name, or beginning of names that ends in a dot -> why it has no meaning here.
    """

    peer: str
    defaults: Mapping[str, Any]
    keys: Mapping[str, Mapping[str, Any]]
    rules: Sequence[str]
    only: Mapping[str, Sequence[Any]]
    ignored: Mapping[str, str]

    @property
    def known(self) -> list[str]:
        """Every name that is used, accepted or ignored."""
        return [*self.keys, *self.rules, *self.only, *self.ignored]

    def reason(self, name: str) -> str | None:
        """Why a name has no meaning here; None if it is not known."""
        begins = [key for key in self.ignored if key.endswith(".") and name.startswith(key)]
        return self.ignored.get(name) or (self.ignored[max(begins, key=len)] if begins else None)


@dataclass(slots=True)
class PeerSettings:
    """Values under a peer's names.

    Attributes:
        places: where each was given; absent: the table's default.
        own: settings of ours, as ``key=value``.
        ignored: names given that have no meaning here, with the reason.
    """

    table: PeerTable
    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @staticmethod
    def read(table: PeerTable, file: Path | None, arguments: Sequence[str]) -> PeerSettings:
        """The settings of a file, then those of the command line.

        Raises:
            ConfigError: listing every name that is unknown and every value that is not accepted.
        """
        settings = PeerSettings(table, dict(table.defaults))
        if file is not None:
            draft = Draft.from_file(file)
            settings.problems += draft.problems
            for name, value, path in flat(draft.values):
                settings.give(name, value, draft.place(path))
        for text in arguments:
            settings.give_text(text)
        settings.resolve_references()
        found = settings.problems
        if found:
            raise ConfigError(found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} problems:", *found]))
        return settings

    def give_text(self, text: str) -> None:
        """Take ``name=value`` of the command line; the value is YAML, or text where it is none."""
        name, equals, written = text.partition("=")
        if not equals:
            self.problems.append(f"{text!r}: expected name=value")
        elif name.startswith("+") and name.lstrip("+") not in self.table.known:
            self.own.append(text.lstrip("+"))
        else:
            document = yaml_source.parse(written)
            self.give(name.lstrip("+"), written if document.problems else document.value, f"argument {text}")

    def give(self, name: str, value: Any, place: str) -> None:
        """Take a value, or note why it cannot be taken."""
        table = self.table
        if name in table.only:
            if value not in table.only[name]:
                accepted = ", ".join(map(str, table.only[name]))
                self.problems.append(f"{place}: {name} is {value!r}; accepted here: {accepted}")
        elif name in table.keys or name in table.rules:
            self.values[name], self.places[name] = value, place
        elif (why := table.reason(name)) is not None:
            self.ignored[name] = why
        else:
            hint = did_you_mean(name, table.known)
            self.problems.append(f"{place}: {name} is no name of {table.peer} that is known here{hint}")

    def resolve_references(self) -> None:
        """Put in what ``${name}`` stands for."""
        for name, value in self.values.items():
            if not isinstance(value, str) or "${" not in value:
                continue
            self.values[name] = re.sub(r"\$\{([\w.]+)\}", lambda found: str(self.values.get(found[1], found[0])), value)
            if "${" in self.values[name]:
                self.problems.append(f"{self.place(name)}: {name} is {value!r}, which refers to nothing that is set")

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

    def choice(self, name: str, choices: Mapping[str, Any]) -> Any:
        """What a value stands for among choices. Raises ConfigError for one that is not there."""
        value = self.values.get(name)
        if not isinstance(value, str) or value not in choices:
            hint = did_you_mean(str(value), choices)
            raise ConfigError(f"{self.place(name)}: {name} is {value!r}{hint}; accepted here: {', '.join(choices)}")
        return choices[value]

    def require(self, names: Sequence[str]) -> None:
        """Raise ConfigError unless each of the names has a value."""
        missing = [name for name in names if not self.values.get(name)]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be given, like {missing[0]}=...")

    def put_keys(self, draft: Draft) -> None:
        """Give a draft of our configuration all that is one key of it."""
        for name, key in self.table.keys.items():
            if name not in self.values:
                continue
            without = [
                f"{other}={self.get(other)}" for other, of in key.get("with", {}).items() if self.get(other) not in of
            ]
            if without:
                self.ignored[name] = f"it has no effect with {', '.join(without)}"
                continue
            value = self.choice(name, key["choices"]) if "choices" in key else self.values[name]
            value = 0 if "off" in key and value == key["off"] else value
            for to in [key["to"]] if isinstance(key["to"], str) else key["to"]:
                draft.put(tuple(to.split(".")), value, self.place(name))

    def told(self) -> str:
        """One line on what was given and has no meaning here; empty if all has."""
        return "ignored: " + "; ".join(f"{name} ({why})" for name, why in self.ignored.items()) if self.ignored else ""


def flat(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """(dotted name, value, place in the file) of nested mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, (*path, name))
        else:
            yield ".".join((*path, name)), value, (*path, name)
