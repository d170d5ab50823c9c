"""Paths as a user writes them: ``~`` is the home folder, and what would silently name another place is refused.

Every key of the configuration that names a file or folder is declared with one of the types below; commands that write
to a path of their own call :func:`local_path`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from ..errors import ConfigError

REFUSED = "path"  # the type of this module's errors in pydantic's list
MODEL = "model:"  # before the folder of a reward model


def local_path(text: str) -> Path:
    """The path that a text names.

    Raises:
        ConfigError: it is empty, a URL, or has an environment variable, a NUL character or an unknown user.
    """
    return Path(expanded(text))


def expanded(text: str) -> str:
    """The text with the home folder in place of ``~``; raises ConfigError as :func:`local_path` does."""
    if not text.strip():
        raise ConfigError("the path is empty; accepted: a file or folder of this machine")
    if "\0" in text:
        raise ConfigError(f"{text!r} has a NUL character, which no path can have")
    if re.match(r"[A-Za-z][\w+.-]*://", text):
        raise ConfigError(f"{text!r} is a URL; accepted: a path of this machine, where the data is copied or mounted")
    if variable := re.search(r"\$(\w+|\{\w+\})", text):
        raise ConfigError(
            f"{text!r} names the environment variable {variable[0]}, which is not read here; accepted: the path itself "
            "(~ is the home folder), or an override that the shell expands: key=$NAME/..."
        )
    home = os.path.expanduser(text)
    if home.startswith("~") and "/" in home:
        raise ConfigError(f"{text!r}: there is no user {home[1:].partition('/')[0]} on this machine")
    return home


def _checked(value: Any) -> Any:
    """A path, or the ``name`` of a mapping, expanded, also in a list; other values are left to the type's own check."""
    if isinstance(value, list):
        return [_checked(item) for item in value]
    try:
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return {**value, "name": expanded(value["name"])}
        if isinstance(value, str):
            prefix = MODEL if value.startswith(MODEL) else ""
            return prefix + expanded(value.removeprefix(prefix))
    except ConfigError as error:
        raise PydanticCustomError(REFUSED, "{reason}", {"reason": str(error)}) from None
    return value


FolderPath = Annotated[Path, BeforeValidator(_checked)]
PathText = Annotated[str, BeforeValidator(_checked)]
OptionalPath = Annotated[str | None, BeforeValidator(_checked)]
OneSource: TypeAlias = str | dict[str, Any]
Source = Annotated[OneSource | list[OneSource], BeforeValidator(_checked)]
OptionalSource = Annotated[OneSource | list[OneSource] | None, BeforeValidator(_checked)]
