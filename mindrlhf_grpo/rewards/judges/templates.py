"""Templates of judges: Jinja files, one per language, filled with a question and its answer.

A template is the user's message to the judge. It may name ``question``, ``response``, ``thought``, ``reference`` and
the columns of the row; an unknown name is an error, never an empty text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...errors import ConfigError
from ..builtin.language import HAN, HANGUL, KANA

Source: TypeAlias = str | Mapping[str, str]  # a file, or a file by language
SCRIPTS = {"ja": KANA, "ko": HANGUL, "zh": HAN}


class JudgeTemplate:
    """A template in one or several languages."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Compile texts by language; ``en``, else the first, serves questions in any other language.

        Raises:
            ConfigError: no text, or one that does not compile.
        """
        if not texts:
            raise ConfigError("a judge needs a template")
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self.languages: dict[str, Template] = {}
        for language, text in texts.items():
            try:
                self.languages[language] = environment.from_string(text.strip())
            except TemplateError as error:
                raise ConfigError(f"the judge's template ({language}) does not compile: {error}") from error

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the message for a question and its answer; raises ConfigError where the template uses an unknown name."""
        language = language_for(str(values.get("question", "")), self.languages)
        try:
            return self.languages[language].render(**values)
        except (TemplateError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the judge's template ({language}) cannot be filled: {error}; there are {', '.join(values)}"
            ) from error


def language_for(question: str, languages: Mapping[str, Any]) -> str:
    """Return the language of a question by its script: any kana, Hangul or Chinese character, else English or the first."""
    for language, script in SCRIPTS.items():
        if language in languages and script.search(question):
            return language
    return "en" if "en" in languages else next(iter(languages))


def load_template(source: Source) -> JudgeTemplate:
    """Read a template from a file, or from files by language.

    Raises:
        ConfigError: a file is unreadable or empty.
    """
    files = {"en": source} if isinstance(source, str) else dict(source)
    return JudgeTemplate({language: read_text(file) for language, file in files.items()})


def read_text(file: str) -> str:
    """Return the text of a template's file; raises ConfigError for an unreadable or empty one."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge template {file!r} cannot be read: {error}") from error
    if not text.strip():
        raise ConfigError(f"judge template {file!r} is empty")
    return text
