"""Policy losses by the names of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from ..errors import ConfigError, did_you_mean
from .policy import PolicyLoss
from .ratios import (
    CispoPolicyLoss,
    CpgdPolicyLoss,
    GeometricPolicyLoss,
    ItemPolicyLoss,
    SapoPolicyLoss,
    SequencePolicyLoss,
)

POLICY_LOSSES: dict[str, type[PolicyLoss]] = {
    "ppo": PolicyLoss, "gspo": SequencePolicyLoss, "cispo": CispoPolicyLoss, "sapo": SapoPolicyLoss,
    "gmpo": GeometricPolicyLoss, "item": ItemPolicyLoss, "cpgd": CpgdPolicyLoss,
}  # fmt: skip

Argument = float | str | int
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a number", (int, float)), "int": ("a whole number", (int,)), "str": ("a word", (str,)),
}  # fmt: skip


def policy_loss(
    name: str, arguments: Mapping[str, Argument], common: Mapping[str, Argument] | None = None
) -> PolicyLoss:
    """The loss of this name.

    Args:
        arguments: what a user set for this loss.
        common: numbers of a preset, which fill what ``arguments`` leave open. Those that the loss has a default of its
            own for, or does not use, are passed over.

    Raises:
        ConfigError: unknown name or argument, an argument without effect, or a value of the wrong type or range.
    """
    if name not in POLICY_LOSSES:
        raise ConfigError(
            f"algorithm.loss {name!r} is unknown{did_you_mean(name, POLICY_LOSSES)}; there are {', '.join(POLICY_LOSSES)}"
        )
    loss = POLICY_LOSSES[name]
    types = {field.name: str(field.type) for field in fields(loss) if field.name not in loss.unused}
    for argument, value in arguments.items():
        if argument not in types:
            reason = "has no effect" if argument in loss.unused else f"is unknown{did_you_mean(argument, types)}"
            raise ConfigError(f"algorithm.loss {name}: {argument} {reason}; it takes {', '.join(types)}")
        if not fits(value, types[argument]):
            raise ConfigError(f"algorithm.loss {name}: {argument} must be {KINDS[types[argument]][0]}, not {value!r}")
    filled = {key: value for key, value in (common or {}).items() if key in types and key not in loss.own}
    try:
        return loss(**{**filled, **arguments})  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"algorithm.loss {name}: {error}") from None


def fits(value: object, kind: str) -> bool:
    """Whether a value of a configuration is of the type named; a whole number is also a float, a truth value is not."""
    return isinstance(value, KINDS[kind][1]) and not isinstance(value, bool)
