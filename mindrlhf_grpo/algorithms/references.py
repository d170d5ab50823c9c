"""From a name in a configuration to what it stands for: built in, installed by another package, or the user's own code.

``algorithm.name``, ``algorithm.loss`` and ``objective.name`` take the name of a built-in, the name of an entry point of
the key's group, ``file.py:thing`` (from the folder a command runs in) or ``pkg.module:thing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from ..errors import ConfigError, UserError, did_you_mean
from ..user_functions import describe, import_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A key of a configuration that names code, and the group of entry points that other packages extend it by."""

    key: str
    group: str

    def installed(self) -> list[str]:
        """Names that other packages add."""
        return sorted({point.name for point in entry_points(group=self.group)})


ALGORITHM = Extension(key="algorithm.name", group="mindrlhf_grpo.algorithms")
LOSS = Extension(key="algorithm.loss", group="mindrlhf_grpo.losses")
OBJECTIVE = Extension(key="objective.name", group="mindrlhf_grpo.objectives")


def load(extension: Extension, reference: str, built_in: Mapping[str, Any], *, also: Iterable[str] = ()) -> Any:
    """Load what a name outside ``built_in`` stands for.

    Args:
        also: further names that are accepted, for the error.

    Raises:
        ConfigError: no such name, file, module or thing, or an exception while it is imported.
    """
    if ":" in reference:
        try:
            return import_object(reference)
        except UserError as error:
            raise ConfigError(f"{extension.key} {reference!r}: {error}") from error
    for point in entry_points(group=extension.group):
        if point.name == reference:
            try:
                return point.load()
            except Exception as error:
                raise ConfigError(
                    f"{extension.key} {reference!r}: {point.value} of the installed package cannot be loaded: "
                    f"{describe(error)}"
                ) from error
    raise ConfigError(unknown(extension.key, reference, [*built_in, *also, *extension.installed()]))


def unknown(key: str, value: str, known: list[str]) -> str:
    """Message for a name that does not exist, with the nearest one that does."""
    return f"{key} {value!r} is unknown{did_you_mean(value, known)}; there are {', '.join(known)}"
