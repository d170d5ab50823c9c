"""Arguments of another program's launcher, as a table, brought to a configuration.

Of each argument the table has its ``default`` (false: a flag) or ``type``, and the ``key`` of ours that it sets, through
``map`` where values have other names, or a ``note`` why it changes nothing. What has neither, the caller sees to.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config_file import Draft
from ..errors import ConfigError
from ..nearest import did_you_mean

Table = Mapping[str, Mapping[str, Any]]
TYPES: Mapping[str, type] = {"str": str, "int": int, "float": float}


def read_arguments(
    words: Sequence[str], table: Table, named: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Every argument's value, and ``key=value`` overrides of the configuration.

    Args:
        named: sets of values for ``--recipe NAME``, which other arguments change.

    Raises:
        ConfigError: an unknown argument or name, or a value of the wrong kind.
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    parser.add_argument("--recipe", choices=list(named))
    for name, spec in table.items():
        default = spec.get("default")
        if default is False:
            parser.add_argument(f"--{name}", nargs="?", type=_flag, const=True)
        else:
            parser.add_argument(f"--{name}", type=TYPES[spec["type"]] if "type" in spec else type(default))
    given, rest = parser.parse_known_args(list(words))
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    for word in rest:
        if word not in overrides:
            raise ConfigError(f"unknown argument {word}{did_you_mean(word.lstrip('-'), table)}")
    chosen = {name: value for name, value in vars(given).items() if value is not None}
    recipe = chosen.pop("recipe", None)
    defaults = {name: spec.get("default") for name, spec in table.items()}
    return {**defaults, **(named[recipe] if recipe else {}), **chosen}, overrides


def drafted(table: Table, given: Mapping[str, Any], note: Callable[[str], None]) -> Draft:
    """The keys that arguments set; ``note`` is told of those that change nothing, where they are not at their default.

    Raises:
        ConfigError: a value that the map of its argument does not have.
    """
    draft = Draft({}, name="arguments")
    for name, spec in table.items():
        value = given[name]
        if "note" in spec and value != spec.get("default"):
            note(f"--{name} changes nothing here: {spec['note']}")
        if "key" in spec and value is not None:
            draft.put(tuple(spec["key"].split(".")), mapped(name, value, spec.get("map")), f"--{name}")
    return draft


def mapped(name: str, value: Any, names: Mapping[Any, Any] | None) -> Any:
    """An argument's value as the configuration calls it; raises ConfigError for one that is not among the names."""
    accepted = None if names is None else {str(key).lower(): ours for key, ours in names.items()}
    if accepted is not None and str(value).lower() not in accepted:
        raise ConfigError(f"--{name} is {value!r}; accepted: {', '.join(accepted)}")
    return value if accepted is None else accepted[str(value).lower()]


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the process."""

    def error(self, message: str) -> Any:
        raise ConfigError(message)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"
