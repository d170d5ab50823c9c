"""Options and keys as data: commands whose options are a table, and other programs' keys translated into ours.

A recipe takes the scripts and files of another system as they are. Which options they have, with which defaults, and
which of our keys each stands for, are tables in YAML; this is the code that reads them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ..config_file import Draft
from ..errors import ConfigError
from ..nearest import did_you_mean
from ..yaml_source import parse

KINDS: Mapping[str, type] = {"text": str, "path": Path, "int": int, "float": float, "switch": bool}
SPELLING = {"token_normalize_func": lambda name: name.replace("-", "_")}
ANY_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def with_options(
    app: typer.Typer, name: str, table: Mapping[str, Mapping[str, Any]]
) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Register a command that gets its options as one dict; underscores and hyphens in options are the same.

    Args:
        table: option -> ``kind`` (of ``KINDS``), ``help``, ``default`` (absent: must be given), ``min`` and ``max``.
    """

    def register(function: Callable[[dict[str, Any]], None]) -> None:
        def command(**values: Any) -> None:
            function(values)

        command.__doc__ = function.__doc__
        parameters = [_parameter(option, row) for option, row in table.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(name=name, context_settings=SPELLING)(command)

    return register


def read_flags(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """``--key value``, ``--key=value`` and ``--switch`` as a dict of YAML values, and the other arguments.

    A value that begins with ``--`` is written with ``=``; hyphens in keys are underscores.
    """
    flags: dict[str, Any] = {}
    others: list[str] = []
    rest = list(arguments)
    while rest:
        text = rest.pop(0)
        if not text.startswith("--"):
            others.append(text)
            continue
        name, equals, value = text[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") and "=" not in rest[0] else "true"
        flags[name.replace("-", "_")] = parse(value).value
    return flags, others


def read_arguments(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any], list[str]]:
    """A file (the one plain argument, or ``--config``), their keys given as flags, and ``key=value`` settings of ours.

    Raises:
        ConfigError: more than one file.
    """
    flags, others = read_flags(arguments)
    files = [text for text in others if "=" not in text]
    if "config" in flags:
        files.append(str(flags.pop("config")))
    if len(files) > 1:
        raise ConfigError(f"one configuration file at most; got {', '.join(files)}")
    return (files[0] if files else None), flags, [text for text in others if "=" in text]


def translate(table: Mapping[str, Sequence[Any]], given: Mapping[str, Any], draft: Draft, place: str) -> dict[str, Any]:
    """Put what another program's keys stand for into a draft; returns those that stand for nothing alone.

    Args:
        table: their key -> [our key or list of keys, default, and a mapping of their values to ours]. Our key null:
            the value is returned under their key, to be computed with. A default of null is left out.
        given: their keys as the user gave them.
        place: where that was, for messages.

    Raises:
        ConfigError: a key that is not in the table, or a value that its mapping lacks.
    """
    for name in given:
        if name not in table:
            hint = did_you_mean(name, table)
            raise ConfigError(f"{place}: there is no key {name!r}{hint}; there are {', '.join(table)}")
    computed: dict[str, Any] = {}
    for name, (ours, default, *mapped) in table.items():
        value = given.get(name, default)
        if ours is None:
            computed[name] = value
        elif value is not None:
            if mapped and str(value).lower() not in mapped[0]:
                raise ConfigError(f"{place}: {name} is {value!r}; it takes {', '.join(mapped[0])}")
            for key in [ours] if isinstance(ours, str) else ours:
                path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
                draft.put(path, mapped[0][str(value).lower()] if mapped else value, f"{place} ({name})")
    return computed


def _parameter(name: str, row: Mapping[str, Any]) -> inspect.Parameter:
    kind, default = KINDS[row["kind"]], row.get("default", ...)
    if kind is Path and isinstance(default, str):
        default = Path(default)
    option = typer.Option(default, f"--{name}", help=row["help"], min=row.get("min"), max=row.get("max"))
    flag = typer.Option(default, f"--{name}", help=row["help"])
    shown = flag if kind in (bool, str, Path) else option
    annotation: Any = kind if default is not None else kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=annotation)
