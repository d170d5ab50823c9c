"""A user's environment class: the one that TRL's ``environment_factory`` takes, or one with a plain ``step``.

With tools: ``reset(**row)`` begins an episode and may return a text that goes to the end of the prompt; every public
method with type hints and a docstring is a tool; ``get_reward()`` may score the episode. Plain: ``step(text)`` answers
a turn with ``(observation, done, reward)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..config.environment import EnvironmentConfig
from ..errors import ConfigError, UserError
from ..user_functions import describe, file_of, import_function

RESERVED = ("reset", "get_reward")
FORMS = (
    "accepted: a class with reset(**row) whose other public methods, with type hints and docstrings, are tools; or one "
    "with reset(**row) and step(text) -> (observation, done, reward)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentClass:
    """What a configuration says and a probe of its class shows.

    Attributes:
        label: how messages name it.
        file: the user's file, for messages.
        make: builds an instance.
        tools: name -> definition for the chat template; empty for the plain form.
        reset_names: the names that ``reset`` takes; None: any.
        gives_reward: it has ``get_reward``, or is of the plain form.
    """

    label: str
    file: str
    make: Callable[[], Any]
    tools: Mapping[str, Mapping[str, Any]]
    reset_names: frozenset[str] | None
    gives_reward: bool
    scored: bool

    @property
    def plain(self) -> bool:
        """True for the form with ``step``."""
        return not self.tools

    def reset(self, instance: Any, row: Mapping[str, Any]) -> Any:
        """Begin an episode with the columns that ``reset`` takes."""
        names = row if self.reset_names is None else [name for name in row if name in self.reset_names]
        return instance.reset(**{name: row[name] for name in names})


def load_environment_class(config: EnvironmentConfig) -> EnvironmentClass:
    """Import the class, build one instance and read its methods.

    Raises:
        ConfigError: it does not exist, cannot be built, lacks a method, or a tool has no type hints or docstring.
    """
    label = f"environment {config.function!r}"
    try:
        factory = import_function(config.function)
    except UserError as error:
        raise ConfigError(f"environment.function: {error}") from error
    file = file_of(factory)
    try:
        instance = factory(**config.arguments)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(
            f"environment.arguments: {config.function} cannot be built: {describe(error, file)}"
        ) from error
    kind = type(instance)
    methods = [name for name, _ in inspect.getmembers(kind, predicate=inspect.isfunction) if not name.startswith("_")]
    if "reset" not in methods:
        raise ConfigError(f"environment.function: {kind.__name__} has no method reset; {FORMS}")
    others = [name for name in methods if name not in RESERVED]
    plain = others == ["step"] and not _is_text(inspect.signature(kind.step).return_annotation)
    if not others:
        raise ConfigError(f"environment.function: {kind.__name__} has neither tools nor a method step; {FORMS}")
    tools = {} if plain else {name: tool_definition(getattr(instance, name), kind.__name__) for name in others}
    parameters = inspect.signature(instance.reset).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return EnvironmentClass(
        label=label,
        file=file,
        make=lambda: factory(**config.arguments),
        tools=tools,
        reset_names=None if takes_all else frozenset(parameter.name for parameter in parameters),
        gives_reward=plain or "get_reward" in methods,
        scored="get_reward" in methods,
    )


def tool_definition(method: Callable[..., Any], owner: str) -> dict[str, Any]:
    """The definition of a tool that chat templates write, from type hints and docstring.

    Raises:
        ConfigError: one of them is missing.
    """
    from transformers.utils import chat_template_utils as schemas

    try:
        definition: dict[str, Any] = schemas.get_json_schema(method)
    except (
        schemas.TypeHintParsingException,
        schemas.DocstringParsingException,
        TypeError,
        ValueError,
        NameError,
    ) as error:
        name = getattr(method, "__name__", "?")
        raise ConfigError(
            f"environment.function: {owner}.{name} cannot be a tool: {error}; a tool has type hints and a docstring with "
            f"an Args section that describes every argument; a method that is none begins with an underscore ({name} -> "
            f"_{name})"
        ) from error
    return definition


def _is_text(annotation: Any) -> bool:
    return annotation is str or annotation == "str"
