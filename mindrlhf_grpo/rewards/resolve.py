"""Resolves a configured reward into a function, its checked settings and the columns it reads.

A reference is a built-in name, ``pkg.module:function`` or ``file.py:function``; every mistake in it is reported here,
before anything is generated. A built-in reads only the columns it declares, so that a data column never replaces one of
its settings; in a user's function every parameter that is not set is read from the data.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_type_hints

from ..errors import ConfigError, DataError, UserError, did_you_mean
from ..user_functions import absolute, import_function
from .builtin.answers import reference_column
from .protocol import Inputs, ModelReward

Function: TypeAlias = Callable[..., Any]
BUILT_IN = f"{__package__}.builtin"
OURS = f"{__package__.partition('.')[0]}."  # functions of this package declare what they accept
PASSED = ("prompts", "completions", "completion_ids")  # passed whatever the data


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The place of a built-in (module of ``rewards/builtin``, function), and the columns and library it needs."""

    module: str
    function: str
    columns: tuple[str, ...] = ()
    references: bool = False  # reads reference answers, see ``answers.reference_column``
    one_of: tuple[str, ...] = ()  # of these columns the data must have one
    library: str = ""
    extra: str = ""


BUILT_INS: Mapping[str, BuiltIn] = {
    "math_accuracy": BuiltIn("math_accuracy", "math_accuracy", references=True, library="math_verify"),
    "exact_match": BuiltIn("exact_match", "exact_match", references=True),
    "numeric_match": BuiltIn("numeric_match", "numeric_match", references=True),
    "regex": BuiltIn("regex", "regex"),
    "format": BuiltIn("format", "tag_format"),
    "language": BuiltIn("language", "language"),
    "length": BuiltIn("length", "length"),
    "overlong": BuiltIn("length", "overlong"),
    "repetition": BuiltIn("repetition", "repetition"),
    "constraints": BuiltIn("constraints", "constraints", columns=("constraints",)),
    "unit_tests": BuiltIn(
        "unit_tests",
        "unit_tests",
        columns=("test", "tests", "test_list", "entry_point", "starter_code"),
        one_of=("test", "tests", "test_list"),
    ),
    "reasoning_gym": BuiltIn(
        "reasoning_gym", "reasoning_gym", columns=("task", "entry"), library="reasoning_gym", extra="tasks"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A function with its settings, and the parameters it reads.

    Attributes:
        reference: as configured, with a file's path made absolute, so that another process finds it too.
        required, optional: parameters read from the data or the batch (``prompts``, ``completions``, ``completion_ids``).
        named: every named parameter; other columns are passed only if ``takes_all``.
    """

    label: str
    reference: str
    function: Function
    settings: Mapping[str, Any]
    required: tuple[str, ...]
    optional: tuple[str, ...]
    named: frozenset[str]
    takes_all: bool
    references: bool = False
    one_of: tuple[str, ...] = ()

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has every column this function needs."""
        data_columns = [name for name in columns if name not in PASSED]
        for name in self.required:
            if name not in data_columns and name not in PASSED:
                raise ConfigError(
                    f"{self.label} needs {name!r}, which is no column of the data and not set under arguments; "
                    f"columns there are: {', '.join(data_columns) or 'none'}"
                )
        if self.one_of and not set(self.one_of) & set(data_columns):
            raise ConfigError(
                f"{self.label} needs one of the columns {', '.join(self.one_of)}; "
                f"columns there are: {', '.join(data_columns) or 'none'}"
            )
        if self.references:
            try:
                reference_column(data_columns, self.settings.get("column"))
            except DataError as error:
                raise ConfigError(f"{self.label}: {error}") from error

    def inputs(self, columns: Inputs) -> Inputs:
        """Return the arguments of a call besides the settings: fresh lists of the columns it reads."""
        self.check(columns)
        read = {*self.required, *self.optional}
        return {
            name: list(values)
            for name, values in columns.items()
            if name in read or (self.takes_all and name not in self.named and name not in self.settings)
        }


def resolve(function: str, arguments: Mapping[str, Any], *, label: str) -> Reward:
    """Return the reward that ``function`` names, with ``arguments`` checked against its signature.

    Raises:
        ConfigError: unknown function, unknown or missing argument, wrong value of a built-in's argument.
    """
    built_in = _built_in(function, label) if ":" not in function else None
    loaded = load_function(function, label=label)
    parameters, takes_all = _parameters(loaded, label)
    from_data = (*PASSED, *(built_in.columns if built_in else ()))
    settable = [name for name in parameters if name not in from_data]
    _refuse_unknown(arguments, settable, takes_all and built_in is None, label)
    open_names = [name for name in parameters if name not in arguments]
    if built_in is not None:
        open_names = [name for name in open_names if name in from_data]
        _require(parameters, arguments, open_names, label)
    if built_in is not None or function.startswith(OURS):
        arguments = _checked_settings(loaded, arguments, label)
    required = tuple(name for name in open_names if parameters[name].default is inspect.Parameter.empty)
    return Reward(
        label=label,
        reference=absolute(function),
        function=loaded,
        settings=dict(arguments),
        required=required,
        optional=tuple(name for name in open_names if name not in required),
        named=frozenset(parameters),
        takes_all=takes_all,
        references=built_in is not None and built_in.references,
        one_of=built_in.one_of if built_in is not None else (),
    )


def load_function(reference: str, *, label: str) -> Function:
    """Import a built-in reward by name, or ``pkg.module:function`` or ``file.py:function``.

    Raises:
        ConfigError: begins with ``label`` and names what was not found and the nearest known name.
    """
    if ":" not in reference:
        built_in = _built_in(reference, label)
        loaded: Function = getattr(importlib.import_module(f"{BUILT_IN}.{built_in.module}"), built_in.function)
        return loaded
    try:
        loaded = import_function(reference)
    except UserError as error:
        raise ConfigError(f"{label}: {error}") from error
    if inspect.isclass(loaded) or inspect.iscoroutinefunction(loaded):
        kind = "a class without uses_models = True" if inspect.isclass(loaded) else "a coroutine function"
        raise ConfigError(f"{label}: {reference} must be a plain function, not {kind}")
    return loaded


def model_reward(reference: str, arguments: Mapping[str, Any], *, label: str) -> type[ModelReward] | None:
    """Return the class that a reference names, its arguments checked; None where it is not one with ``uses_models``.

    Raises:
        ConfigError: the reference leads nowhere, or an argument is unknown or missing.
    """
    if ":" not in reference:
        return None
    try:
        loaded = import_function(reference)
    except UserError as error:
        raise ConfigError(f"{label}: {error}") from error
    if not (inspect.isclass(loaded) and getattr(loaded, "uses_models", False)):
        return None
    named, takes_all = _parameters(loaded, label)
    settable = dict(list(named.items())[2:])  # after backend and policy folder
    _refuse_unknown(arguments, list(settable), takes_all, label)
    for name, parameter in settable.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(f"{label} needs the argument {name!r}: set it under arguments")
    user_class: type[ModelReward] = loaded  # type: ignore[assignment]  # ``uses_models`` declares it to be one
    return user_class


def arguments_of(name: str) -> dict[str, str]:
    """Return the arguments of a built-in reward as name -> type and default, as text."""
    function = load_function(name, label="reward")
    parameters, _ = _parameters(function, "reward")
    types = get_type_hints(function)
    passed = (*PASSED, *BUILT_INS[name].columns)

    def described(key: str) -> str:
        accepted = types[key].__name__ if isinstance(types[key], type) else str(types[key]).replace("typing.", "")
        default = parameters[key].default
        return f"{accepted}, " + ("required" if default is inspect.Parameter.empty else f"default {default!r}")

    return {key: described(key) for key in parameters if key not in passed}


def prepare(reference: str) -> None:
    """Load what a built-in's first call would load, so that no time limit counts it; do nothing for other functions."""
    if reference in BUILT_INS:
        module = importlib.import_module(f"{BUILT_IN}.{BUILT_INS[reference].module}")
        getattr(module, "prepare", lambda: None)()


def _built_in(name: str, label: str) -> BuiltIn:
    built_in = BUILT_INS.get(name)
    if built_in is None:
        raise ConfigError(
            f"{label}: there is no built-in function {name!r}{did_you_mean(name, BUILT_INS, cutoff=0.0)}; built in are "
            f"{', '.join(BUILT_INS)}; your own is written pkg.module:function or file.py:function"
        )
    if built_in.library and importlib.util.find_spec(built_in.library) is None:
        package = f"mindrlhf-grpo[{built_in.extra}]" if built_in.extra else built_in.library.replace("_", "-")
        raise ConfigError(f"{label}: {name} needs the library {built_in.library}: pip install '{package}'")
    return built_in


def _parameters(function: Function, label: str) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        signature = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise ConfigError(f"{label}: the parameters of {function!r} are not known; wrap it in a function") from error
    named = {p.name: p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for parameter in signature:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"{label}: parameter {parameter.name!r} cannot be given by name; rewards are called by name"
            )
    return named, any(p.kind is p.VAR_KEYWORD for p in signature)


def _refuse_unknown(arguments: Mapping[str, Any], settable: list[str], any_name: bool, label: str) -> None:
    for name in arguments:
        if name in PASSED:
            raise ConfigError(f"{label}: {name!r} is given by the trainer and cannot be set under arguments")
        if name not in settable and not any_name:
            hint = did_you_mean(name, settable)
            raise ConfigError(f"{label}: unknown argument {name!r}{hint}; it takes {', '.join(settable) or 'none'}")


def _require(
    parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], columns: Iterable[str], label: str
) -> None:
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments and name not in columns:
            raise ConfigError(f"{label} needs the argument {name!r}: set it under arguments")


def _checked_settings(function: Function, arguments: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the settings of a function of this package: its parameters' annotations and ``check_FUNCTION`` accept them.

    A module has a function ``check_FUNCTION(settings)`` where settings can contradict each other; it raises ConfigError.
    """
    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(function, include_extras=True)
    checked = {}
    for name, value in arguments.items():
        try:
            checked[name] = TypeAdapter(hints.get(name, Any)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"{label}: argument {name!r} is {value!r}: {reason}") from error
    check = getattr(importlib.import_module(function.__module__), f"check_{function.__name__}", None)
    if check is not None:
        check(checked)
    return checked
