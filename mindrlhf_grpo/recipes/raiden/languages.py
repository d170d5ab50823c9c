"""The four languages of the recipe: detection of a text's language, and the texts that models read in each.

Texts are data: nested YAML (``texts.yaml``, language -> task -> text) with placeholders ``$name``. A file of the user with
the same structure replaces single texts. A text with a missing or an unknown placeholder is an error when it is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ...config.yaml_source import parse
from ...errors import ConfigError, did_you_mean
from ...rewards.builtin.language import letters_by_language

LANGUAGES = ("zh", "ja", "en", "ko")


def detect_language(text: str) -> str:
    """Return the language of a text by its letters: any kana means Japanese; little Latin, or nothing, means Chinese."""
    counts = letters_by_language(text)[1]
    if counts["ja"]:
        return "ja"
    if counts["ko"] > max(counts["zh"], counts["en"]):
        return "ko"
    return "en" if counts["en"] > max(counts["zh"], 10) else "zh"


class Texts:
    """Texts, addressed by the keys that lead to them: ``texts.fill("en", "judge", "question", name="Ada")``.

    Attributes:
        content: the nested mapping that holds them.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def fill(self, *keys: str, **values: str) -> str:
        """Return a text with its placeholders filled in.

        Raises:
            ConfigError: there is no such text, or it has a placeholder that ``values`` lacks.
        """
        text = self._text(keys)
        try:
            return Template(text).substitute(values)
        except (KeyError, ValueError) as error:
            known = ", ".join(f"${name}" for name in values) or "none"
            raise ConfigError(f"text {'.'.join(keys)}: placeholder {error}; it may use {known}") from None

    def matches(self, *keys: str, text: str) -> bool:
        """Return whether the regular expression at ``keys`` matches anywhere in a text, in any case, line by line.

        Raises:
            ConfigError: there is no such expression, or it is invalid.
        """
        pattern = self._text(keys)
        try:
            return re.search(pattern, text, re.IGNORECASE | re.MULTILINE) is not None
        except re.error as error:
            raise ConfigError(f"text {'.'.join(keys)}: {pattern!r} is no regular expression: {error}") from None

    def _text(self, keys: tuple[str, ...]) -> str:
        value: Any = self.content
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(value, str):
            raise ConfigError(f"there is no text {'.'.join(keys)}")
        return value


@lru_cache(maxsize=16)
def load_texts(path: str | None = None) -> Texts:
    """Return the texts of ``texts.yaml``, with those of the user's YAML file ``path`` in their place.

    Raises:
        ConfigError: the file cannot be read, or names an unknown text.
    """
    content = parse(files(__package__).joinpath("texts.yaml").read_text(encoding="utf-8")).value
    if path is not None:
        try:
            document = parse(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"texts {path} cannot be read: {error}") from None
        if document.problems:
            raise ConfigError(f"texts {path}:{document.problems[0][0]}: {document.problems[0][1]}")
        _lay_over(content, document.value, path, ())
    return Texts(content)


def _lay_over(content: dict[str, Any], replacements: Any, path: str, place: tuple[str, ...]) -> None:
    if not isinstance(replacements, Mapping):
        raise ConfigError(f"texts {path}: {'.'.join(place) or 'the file'} is no mapping")
    for name, value in replacements.items():
        here = ".".join((*place, str(name)))
        if name not in content:
            hint = did_you_mean(str(name), content)
            raise ConfigError(f"texts {path}: unknown {here}{hint}; there are {', '.join(content)}")
        if isinstance(content[name], dict):
            _lay_over(content[name], value, path, (*place, str(name)))
        elif isinstance(value, str):
            content[name] = value
        else:
            raise ConfigError(f"texts {path}: {here} is {value!r}, not text")
