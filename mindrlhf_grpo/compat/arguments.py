"""Command lines of other programs: a table of arguments, read into values and put into our configuration.

The table is one of ``translation.py``. For the command line its rows have ``default`` (false makes a switch), ``help``,
``kind`` (one of ``KINDS``, where the default does not tell the type) and, optionally, ``many`` (several values, or how
many), ``alone`` (the value of the argument without one), ``choices``, ``required``, ``min`` and ``max``. Flags can also be
read without a table: see :func:`read_flags`.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ..config.file import Draft
from ..config.yaml_source import parse
from ..errors import ConfigError, did_you_mean
from .translation import Row, Table

KINDS: Mapping[str, type] = {"text": str, "path": Path, "int": int, "float": float, "switch": bool}
SPELLING = {"token_normalize_func": lambda name: name.replace("-", "_")}
ANY_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
SETTING = re.compile(r"\+?[A-Za-z_][\w.]*=")  # key=value
REFUSED = "--{name} is {value!r}; accepted: {accepted}"


def read_arguments(
    words: Sequence[str], rows: Mapping[str, Row], named: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Read every argument's value, and ``key=value`` overrides of the configuration.

    Args:
        named: sets of values for ``--recipe NAME``; explicit arguments override them.

    Raises:
        ConfigError: an unknown argument or name, or a value of the wrong kind.
    """
    parser = _Raising(allow_abbrev=False, add_help=False)
    parser.add_argument("--recipe", choices=list(named))
    explicit, rest = _parsed(parser, rows, words)
    _refuse(parser, [word for word in rest if word.startswith("-") or "=" not in word], rows)
    recipe = explicit.pop("recipe", None)
    return {**_defaults(rows), **(named[recipe] if recipe else {}), **explicit}, rest


def read_script_arguments(program: str, words: Sequence[str], rows: Mapping[str, Row]) -> dict[str, Any]:
    """Read every argument's value; a mistake is printed to stderr and exits with code 2, ``--help`` exits with 0."""
    parser = argparse.ArgumentParser(program, allow_abbrev=False)
    explicit, rest = _parsed(parser, rows, words)
    _refuse(parser, rest, rows)
    return {**_defaults(rows), **explicit}


def put_arguments(
    draft: Draft, rows: Mapping[str, Row], arguments: Mapping[str, Any], note: Callable[[str], None] = lambda text: None
) -> None:
    """Put arguments into a draft, and call ``note`` once on those that change nothing and are not at their default.

    Raises:
        ConfigError: a value that the ``map`` of its argument does not have.
    """
    values = {name: value for name, value in arguments.items() if value is not None}
    translation = Table.parse(rows, refused=REFUSED).read(values, lambda path: f"--{path[0]}")
    translation.put_keys(draft)
    if translation.ignored:
        note(without_effect(translation.ignored))


def without_effect(reasons: Mapping[str, str]) -> str:
    """Return one line on arguments (name -> reason) that change nothing; those with one reason stand together."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(f"--{name}")
    return "without effect here: " + "; ".join(f"{', '.join(some)} ({why})" for why, some in names.items())


def choice_of(name: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """Return our value for an argument's; raises ConfigError for a value without a choice."""
    return Table.parse({}, refused=REFUSED).choose(name, value, choices)


def read_options(words: Sequence[str], known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Split words into options (``--name value`` or ``--name=value``, as texts) and the others.

    An option alone is ``true``; a word that begins with ``--`` or is ``key=value`` is never an option's value. Hyphens
    in names become underscores.

    Raises:
        ConfigError: an unknown option.
    """
    options, others = _split(words)
    for name in options:
        if name not in known:
            raise ConfigError(f"option '--{name}' is unknown{did_you_mean(name, known)}")
    return options, others


def read_flags(words: Sequence[str]) -> tuple[str | None, dict[str, Any], list[str]]:
    """Return a file (the one plain word, or ``--config``), flags as YAML values, and ``key=value`` settings of ours.

    Raises:
        ConfigError: more than one file.
    """
    texts, others = _split(words)
    files = [text for text in others if "=" not in text]
    files += [texts.pop("config")] if "config" in texts else []
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most; got {', '.join(files)}")
    flags = {name: parse(text).value for name, text in texts.items()}
    return (files[0] if files else None), flags, [text for text in others if "=" in text]


def with_options(
    app: typer.Typer, name: str, rows: Mapping[str, Row]
) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Register a command that gets its arguments as one dict; underscores and hyphens in their names are the same.

    Typer reads a command's options from the signature of its function. The options here come from a table, so a
    signature is made from its rows and set as ``__signature__``. An argument without a default must be given.
    """

    def register(function: Callable[[dict[str, Any]], None]) -> None:
        def command(**values: Any) -> None:
            function(values)

        command.__doc__ = function.__doc__
        parameters = [_parameter(option, row) for option, row in rows.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(name=name, context_settings=SPELLING)(command)

    return register


def _parameter(name: str, row: Row) -> inspect.Parameter:
    kind, default = KINDS[row["kind"]], row.get("default", ...)
    if kind is Path and isinstance(default, str):
        default = Path(default)
    option = typer.Option(default, f"--{name}", help=row["help"], min=row.get("min"), max=row.get("max"))
    flag = typer.Option(default, f"--{name}", help=row["help"])
    shown = flag if kind in (bool, str, Path) else option
    annotation: Any = kind if default is not None else kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=annotation)


class _Raising(argparse.ArgumentParser):
    """Raises instead of leaving the process."""

    def error(self, message: str) -> Any:
        raise ConfigError(message)


def _parsed(
    parser: argparse.ArgumentParser, rows: Mapping[str, Row], words: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments that were given, and the other words."""
    for name, row in rows.items():
        default = row.get("default")
        options: dict[str, Any] = {"help": f"{row.get('help', '')} [{default}]".replace("%", "%%")}
        if default is False:
            options |= {"nargs": "?", "type": _flag, "const": True}
        else:
            example = default[0] if isinstance(default, list) else default
            options["type"] = KINDS[row["kind"]] if "kind" in row else type(example)
            if many := row.get("many"):
                options["nargs"] = "+" if many is True else many
            if "alone" in row:
                options |= {"nargs": "?", "const": row["alone"]}
            options |= {key: row[key] for key in ("choices", "required") if key in row}
        parser.add_argument(f"--{name}", **options)
    explicit, rest = parser.parse_known_args(list(words))
    return {name: value for name, value in vars(explicit).items() if value is not None}, rest


def _refuse(parser: argparse.ArgumentParser, words: Sequence[str], rows: Mapping[str, Row]) -> None:
    for word in words:
        parser.error(f"unknown argument {word}{did_you_mean(word.lstrip('-').partition('=')[0], rows)}")


def _defaults(rows: Mapping[str, Row]) -> dict[str, Any]:
    return {name: row.get("default") for name, row in rows.items()}


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return flags as texts, and the other words."""
    flags: dict[str, str] = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            others.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        alone = not rest or rest[0].startswith("--") or SETTING.match(rest[0])
        flags[name.replace("-", "_")] = text if equals else "true" if alone else rest.pop(0)
    return flags, others
