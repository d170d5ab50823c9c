"""Values that must not leave the machine with a run's files: keys, tokens and passwords in arguments."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(hidden)"
ALWAYS = {"secret", "secrets", "password", "passwords", "passwd", "credential", "credentials", "apikey"}
UNLESS_A_NAME = {"key", "keys", "token", "authorization", "bearer"}
COLUMN = r"[A-Za-z_][A-Za-z_.]*"  # plain words, as names of columns are


def hide_secrets(tree: Any, name: str = "") -> Any:
    """The same values with ``(hidden)`` in place of secrets, which are known by the words of their key.

    A key such as ``input_key: question`` names a column: plain words under ``key`` and ``token`` stay.
    """
    if isinstance(tree, dict):
        return {key: hide_secrets(value, str(key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [hide_secrets(value, name) for value in tree]
    return HIDDEN if isinstance(tree, str) and tree and _is_secret(name, tree) else tree


def hidden_places(tree: Any, path: str = "") -> list[str]:
    """Dotted keys whose value is ``(hidden)``: they come from the files of a run and must be given again."""
    if isinstance(tree, dict):
        return [place for key, value in tree.items() for place in hidden_places(value, f"{path}.{key}".lstrip("."))]
    if isinstance(tree, list):
        return [place for index, value in enumerate(tree) for place in hidden_places(value, f"{path}.{index}")]
    return [path] if tree == HIDDEN else []


def _is_secret(name: str, value: str) -> bool:
    words = set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    return bool(words & ALWAYS) or (bool(words & UNLESS_A_NAME) and not re.fullmatch(COLUMN, value))
