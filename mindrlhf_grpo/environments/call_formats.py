"""The forms in which models write tool calls: which one a chat template uses, and reading a turn in it.

The template itself says its form: it is asked to write one call, and the marks around it tell. A turn is read from its
text with special tokens, after its thoughts. What looks like a call and cannot be read is a problem that the model is
told of, never an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import ConfigError
from ..tokenizers.tokenizer import Tokenizer

THOUGHT_END = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call in a turn; with a ``problem`` it cannot be made."""

    name: str = ""
    arguments: Mapping[str, Any] | None = None
    problem: str = ""


Reader: TypeAlias = Callable[[str, Mapping[str, Mapping[str, Any]]], list[Call]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """A form of calls.

    Attributes:
        name: for messages.
        mark: what the text of a rendered call has in this form and in no other before it in ``FORMATS``.
        read: the calls in a turn, given the tools' definitions.
    """

    name: str
    mark: re.Pattern[str]
    read: Reader


def turn_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of sampled tokens with special tokens, which ``decode`` leaves out, but for end tokens at the end."""
    kept = list(ids)
    while kept and kept[-1] in tokenizer.eos_ids:
        kept.pop()
    parts: list[str] = []
    run: list[int] = []
    for token in kept:
        if tokenizer.decode([token]):
            run.append(token)
            continue
        parts += [tokenizer.decode(run), tokenizer.piece(token)]
        run = []
    return "".join([*parts, tokenizer.decode(run)])


def said_text(text: str) -> str:
    """The text of a turn after its thoughts."""
    return text.rpartition(THOUGHT_END)[2]


def parsed(text: str) -> Any:
    """The JSON value of a text; ValueError if it is none."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def json_call(text: str, keys: Sequence[str] = ("arguments",), name: str | None = None) -> Call:
    """The call that a JSON object ``{"name": ..., "arguments": {...}}`` writes; with ``name`` the object of arguments."""
    try:
        value = parsed(text)
    except ValueError as error:
        return Call(problem=f"the call is no JSON ({error}): {_excerpt(text)}")
    if name is None:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return Call(problem=f"the call is no object with a name and {keys[0]}: {_excerpt(text)}")
        name = value["name"]
        value = next((value[key] for key in keys if key in value), {})
    if isinstance(value, str):
        with suppress(ValueError):
            value = parsed(value)
    if not isinstance(value, dict):
        return Call(name=name, problem=f"the {keys[0]} of {name} are no object: {_excerpt(json.dumps(value))}")
    return Call(name=name, arguments=value)


def between(text: str, opening: str, closing: str) -> Iterator[tuple[str, bool]]:
    """Every part between two marks, and whether it was closed."""
    _, *parts = text.split(opening)
    for part in parts:
        inner, mark, _ = part.partition(closing)
        yield inner, bool(mark)


def _unclosed(closing: str) -> Call:
    return Call(problem=f"the call does not end with {closing}")


def read_hermes(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Hermes, Qwen 2.5 and 3: JSON objects in ``<tool_call>`` tags."""
    return [
        json_call(inner.strip(), ("arguments", "parameters")) if closed else _unclosed("</tool_call>")
        for inner, closed in between(said_text(text), "<tool_call>", "</tool_call>")
    ]


def read_functions(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Qwen 3 Coder, Qwen 3.5, Nemotron 3: ``<function=NAME>`` with ``<parameter=KEY>`` tags."""
    calls = []
    for inner, closed in between(said_text(text), "<tool_call>", "</tool_call>"):
        found = re.fullmatch(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", inner, re.DOTALL)
        if not closed or found is None:
            calls.append(
                _unclosed("</tool_call>")
                if not closed
                else Call(problem=f"the call is not <function=NAME> ... </function>: {_excerpt(inner)}")
            )
            continue
        name = found[1].strip()
        pairs = re.findall(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", found[2], re.DOTALL)
        calls.append(Call(name=name, arguments=_typed(name, pairs, tools)))
    return calls


def read_glm(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """GLM 4: a name, then ``<arg_key>`` and ``<arg_value>`` tags in turn."""
    calls = []
    for inner, closed in between(said_text(text), "<tool_call>", "</tool_call>"):
        name = inner.partition("<arg_key>")[0].strip()
        pairs = re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", inner, re.DOTALL)
        if not closed:
            calls.append(_unclosed("</tool_call>"))
        elif not name or inner.count("<arg_key>") != len(pairs):
            calls.append(Call(problem=f"the call is not NAME with <arg_key> and <arg_value> tags: {_excerpt(inner)}"))
        else:
            calls.append(Call(name=name, arguments=_typed(name, pairs, tools)))
    return calls


def read_deepseek(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """DeepSeek V3 and R1: ``function<｜tool▁sep｜>NAME`` and a block of JSON; V3.1: ``NAME<｜tool▁sep｜>{...}``."""
    calls = []
    for inner, closed in between(said_text(text), "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"):
        before, mark, after = inner.partition("<｜tool▁sep｜>")
        if not closed or not mark:
            calls.append(
                _unclosed("<｜tool▁call▁end｜>") if not closed else Call(problem="the call has no <｜tool▁sep｜>")
            )
            continue
        block = re.fullmatch(r"\s*([^\n]+)\n```json\n(.*?)\n?```\s*", after, re.DOTALL)
        name, arguments = (block[1], block[2]) if block is not None else (before, after)
        calls.append(json_call(arguments.strip(), name=name.strip()))
    return calls


def read_mistral(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Mistral: ``[TOOL_CALLS]`` before a JSON list, or before each ``NAME[ARGS]{...}``."""
    calls: list[Call] = []
    _, *parts = said_text(text).split("[TOOL_CALLS]")
    for part in parts:
        body = part.strip()
        if not body.startswith("["):
            name, mark, arguments = body.partition("[ARGS]")
            if not mark:
                name, brace, rest = body.partition("{")
                arguments = brace + rest
            name = name.partition("[CALL_ID]")[0].strip()
            problem = Call(problem=f"the call is not NAME[ARGS]{{...}}: {_excerpt(body)}")
            calls.append(json_call(arguments.strip(), name=name) if name and arguments else problem)
            continue
        try:
            items = parsed(body)
        except ValueError as error:
            calls.append(Call(problem=f"the calls are no JSON list ({error}): {_excerpt(body)}"))
            continue
        calls += [json_call(json.dumps(item)) for item in items]
        if not items:
            calls.append(Call(problem="the list of calls is empty"))
    return calls


def read_llama(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Llama 3: the turn is a JSON object with a name and parameters, perhaps after ``<|python_tag|>``."""
    body = said_text(text).strip()
    tagged = body.startswith("<|python_tag|>")
    body = body.removeprefix("<|python_tag|>").strip()
    if not tagged and not body.startswith("{"):
        return []
    return [json_call(body, ("parameters", "arguments"))]


FORMATS = (
    CallFormat(name="DeepSeek", mark=re.compile("<｜tool▁sep｜>"), read=read_deepseek),
    CallFormat(name="Mistral", mark=re.compile(r"\[TOOL_CALLS\]"), read=read_mistral),
    CallFormat(name="GLM", mark=re.compile("<arg_key>"), read=read_glm),
    CallFormat(name="functions", mark=re.compile("<function=probe_tool>"), read=read_functions),
    CallFormat(name="Hermes", mark=re.compile(r"<tool_call>\s*\{"), read=read_hermes),
    CallFormat(name="Llama 3", mark=re.compile(r'\{\s*"name":\s*"probe_tool",\s*"parameters"'), read=read_llama),
)


def find_format(rendered_call: str, response_template: Mapping[str, Any] | None = None) -> CallFormat:
    """The form of a chat template.

    Args:
        rendered_call: what the template writes for a call of ``probe_tool``.
        response_template: ``response_template`` of tokenizer_config.json, by which transformers reads answers.

    Raises:
        ConfigError: a form that is not known here, in a tokenizer without a ``response_template``.
    """
    for form in FORMATS:
        if form.mark.search(rendered_call):
            return form
    if response_template is not None:
        return CallFormat(name="transformers", mark=re.compile("$"), read=transformers_reader(response_template))
    raise ConfigError(
        f"data.chat_template writes a tool call as {_excerpt(rendered_call)}, which cannot be read here; accepted: a "
        f"template in one of the forms {', '.join(form.name for form in FORMATS)}, or a tokenizer_config.json with a "
        "response_template for transformers"
    )


def transformers_reader(template: Mapping[str, Any]) -> Reader:
    """Reads turns by the ``response_template`` of a tokenizer."""

    def read(text: str, tools: Mapping[str, Mapping[str, Any]]) -> list[Call]:
        from transformers.utils.chat_parsing import parse_response

        try:
            message = parse_response(text, dict(template), tools=[dict(tool) for tool in tools.values()])
        except Exception as error:
            return [Call(problem=f"the turn cannot be read: {type(error).__name__}: {error}")]
        return [json_call(json.dumps(call.get("function", call))) for call in message.get("tool_calls") or []]

    return read


def _typed(name: str, pairs: Sequence[tuple[str, str]], tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arguments written as text: those that are no text by the tool's definition are read as JSON where they can be."""
    properties = tools.get(name, {}).get("function", {}).get("parameters", {}).get("properties", {})
    arguments: dict[str, Any] = {}
    for key, text in pairs:
        arguments[key.strip()] = text
        if properties.get(key.strip(), {}).get("type") != "string":
            with suppress(ValueError):
                arguments[key.strip()] = parsed(text.strip())
    return arguments


def _excerpt(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[: limit - 20]} ... {text[-15:]}")
