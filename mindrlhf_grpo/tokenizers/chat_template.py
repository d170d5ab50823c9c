"""Chat templates: a conversation rendered to text by sandboxed Jinja, with the names that published templates use.

Rendering is a function of the messages alone: a template that asks for today's date gets a fixed one, so that a
resumed run sees the same prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import DataError

TODAY = date(2024, 7, 26)
RESERVED = ("messages", "add_generation_prompt")


class GenerationTag(Extension):
    """The tag ``{% generation %}``, which marks the assistant's text in templates: its body is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it this way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template with the special tokens it may name (``bos_token``, ``eos_token``, ...)."""

    def __init__(self, source: str, named_tokens: Mapping[str, str]) -> None:
        """Raises DataError if the template does not compile."""
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise DataError(f"the chat template does not compile: {error}") from error
        self._tokens = dict(named_tokens)
        self._source = source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a conversation, by default with the generation prompt.

        Args:
            messages: the conversation.
            generation_prompt: end with what precedes an answer of the assistant.
            variables: further names that the template reads: ``tools``, ``enable_thinking``, ...

        Raises:
            DataError: the template refuses the conversation.
        """
        for name in variables or {}:
            if name in RESERVED or (name != "tools" and not re.search(rf"\b{re.escape(name)}\b", self._source)):
                known = "it is set here" if name in RESERVED else "the chat template does not read it"
                raise DataError(f"data.rendering.chat_template_kwargs: {name!r} is not accepted: {known}")
        names = {**self._tokens, "tools": None, "documents": None, **(variables or {})}
        try:
            return self._template.render(
                {**names, "messages": list(messages), "add_generation_prompt": generation_prompt}
            )
        # Values of the wrong type surface as TypeError and the like from inside the template.
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise DataError(f"the chat template refuses the conversation: {error}") from error


def select_template(choice: str, tokenizer_template: str | None) -> str | None:
    """Return the template that ``data.chat_template`` names: ``auto`` (the tokenizer's), ``none``, or a file's text.

    Raises:
        DataError: the file cannot be read.
    """
    if choice == "auto":
        return tokenizer_template
    if choice == "none":
        return None
    try:
        return Path(choice).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"chat_template {choice!r} cannot be read ({error}); accepted: auto, none, or a Jinja file"
        ) from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
