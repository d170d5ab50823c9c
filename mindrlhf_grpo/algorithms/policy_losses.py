"""From ``algorithm.loss`` to a policy loss with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ..backend import Loss
from ..errors import ConfigError, did_you_mean
from .references import LOSS, load
from .registry import POLICY_LOSSES
from .user_defined import loss_class

Argument = float | str | int
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a number", (int, float)), "int": ("a whole number", (int,)), "str": ("a word", (str,)),
    "bool": ("true or false", (bool,)),
}  # fmt: skip


def find_loss(name: str) -> Callable[..., Loss]:
    """The class of a built-in loss, or that of a user's class or function, checked.

    Raises:
        ConfigError: unknown name, or something that cannot be a policy loss.
    """
    built_in = POLICY_LOSSES.get(name)
    return built_in if built_in is not None else loss_class(load(LOSS, name, POLICY_LOSSES), name)


def policy_loss(name: str, arguments: Mapping[str, Argument], common: Mapping[str, Argument] | None = None) -> Loss:
    """The loss of this name.

    Args:
        arguments: what a user set for this loss.
        common: numbers of a preset, which fill what ``arguments`` leave open. Those that the loss has a default of its
            own for, or does not use, are passed over.

    Raises:
        ConfigError: unknown name or argument, an argument without effect, or a value of the wrong type or range.
    """
    return make_loss(name, find_loss(name), arguments, common or {})


def make_loss(
    name: str, loss: Callable[..., Loss], arguments: Mapping[str, Argument], common: Mapping[str, Argument]
) -> Loss:
    """A loss of this class; arguments as in :func:`policy_loss`."""
    unused, own_defaults = getattr(loss, "unused", ()), getattr(loss, "own_defaults", ())
    types = field_types(loss, without=unused)
    for argument, value in arguments.items():
        if argument not in types:
            reason = "has no effect" if argument in unused else f"is unknown{did_you_mean(argument, types)}"
            raise ConfigError(f"algorithm.loss {name}: {argument} {reason}; it takes {', '.join(types) or 'nothing'}")
        if not fits(value, types[argument]):
            raise ConfigError(f"algorithm.loss {name}: {argument} must be {KINDS[types[argument]][0]}, not {value!r}")
    filled = {key: value for key, value in common.items() if key in types and key not in own_defaults}
    try:
        return loss(**{**filled, **arguments})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"algorithm.loss {name}: {error}") from None


def field_types(loss: Any, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Name of the type of each field of a loss that a configuration can set."""
    types = {field.name: field.type if isinstance(field.type, str) else field.type.__name__ for field in fields(loss)}
    return {name: kind for name, kind in types.items() if name not in without and kind in KINDS}


def fits(value: object, kind: str) -> bool:
    """True for a value of the named type; a whole number is also a float, a truth value only a bool."""
    return isinstance(value, KINDS[kind][1]) and isinstance(value, bool) == (kind == "bool")
