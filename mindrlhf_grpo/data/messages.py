"""Messages of a row, checked and brought to one form, and the further names that a row gives to its chat template.

Keys that are null are absent: tables give every message the keys of all messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from ..tokenizers.tokenizer import Conversation, Message


def read_conversation(value: Sequence[Any]) -> Conversation:
    """Return messages that are not all empty; raises DataError on anything else."""
    messages = [_message(item, f"message {number}") for number, item in enumerate(value)]
    if not any(message["content"].strip() or "tool_calls" in message for message in messages):
        raise DataError("the prompt is empty")
    return messages


def template_variables(row: Mapping[str, Any], settings: Mapping[str, Any], tools_column: str) -> dict[str, Any]:
    """Return what a row's chat template gets besides the messages.

    These are ``data.rendering.chat_template_kwargs``, over them the row's column of that name, and the row's ``tools``.

    Raises:
        DataError: a column has the wrong form.
    """
    of_row = without_nulls(row.get("chat_template_kwargs") or {})
    if not isinstance(of_row, Mapping):
        raise DataError(f"chat_template_kwargs is {type(of_row).__name__}, not a mapping of names to values")
    tools = row.get(tools_column)
    if isinstance(tools, str):
        tools = _parsed(tools, tools_column) if tools.strip() else None
    if tools is not None and not (isinstance(tools, Sequence) and all(isinstance(tool, Mapping) for tool in tools)):
        raise DataError(f"{tools_column} is not a list of objects, the definitions of tools")
    variables = {**settings, **of_row, **({"tools": without_nulls(list(tools))} if tools else {})}
    for name, value in variables.items():
        _check_texts(value, name)
    return variables


def check_text(text: str, what: str) -> None:
    """Raise DataError for text that cannot be encoded."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds half a surrogate pair at character {error.start}, which is no text") from error


def _check_texts(value: Any, what: str) -> None:
    """Check every text inside lists and mappings."""
    if isinstance(value, str):
        check_text(value, what)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_texts(str(key), what)
            _check_texts(item, what)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_texts(item, what)


def without_nulls(value: Any) -> Any:
    """Return a value without the keys of its mappings that are null."""
    if isinstance(value, Mapping):
        return {str(key): without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(item) for item in value]
    return value


def _message(item: Any, place: str) -> Message:
    if not isinstance(item, Mapping):
        raise DataError(f"{place} is {type(item).__name__}, not {{role, content}}")
    message: Message = without_nulls({key: value for key, value in item.items() if key != "tool_calls"})
    if item.get("tool_calls"):
        message["tool_calls"] = [_call(call, place) for call in item["tool_calls"]]
        message.setdefault("content", "")
    for key in ("role", "content"):
        if key not in item and key not in message:
            raise DataError(f"{place} has no {key!r}; it has {', '.join(map(str, item)) or 'nothing'}")
    content = message.get("content")
    if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
        message["content"] = _joined(content, place)
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise DataError(f"{place}: {key} is {type(item[key]).__name__}, not text")
    for key, value in message.items():
        _check_texts(value, f"{place}: {key}")
    if not message["role"].strip():
        raise DataError(f"{place}: role is empty")
    if message.get("weight", 1) not in (0, 1) or not isinstance(message.get("loss", True), bool):
        raise DataError(f"{place}: accepted: weight 0 or 1, and loss true or false")
    return message


def _joined(parts: Sequence[Any], place: str) -> str:
    """Join the parts of a content to its text."""
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DataError(
                f"{place}: content has a part of type {part.get('type')!r}; accepted: text (images need data.images)"
            )
    return "".join(part["text"] for part in parts)


def _call(call: Any, place: str) -> dict[str, Any]:
    """Return a tool call whose arguments are an object, however often they were written as JSON."""
    if not isinstance(call, Mapping):
        raise DataError(f"{place}: a tool call is {type(call).__name__}, not an object")
    plain: dict[str, Any] = {str(key): value for key, value in call.items() if value is not None}
    if isinstance(plain.get("function"), Mapping):
        plain["function"] = _call(plain["function"], place)
        return plain
    arguments = plain.get("arguments", {})
    if isinstance(arguments, str):
        while isinstance(arguments, str):
            arguments = _parsed(arguments, f"{place}: the arguments of a tool call") if arguments.strip() else {}
    else:
        arguments = without_nulls(arguments)
    if not isinstance(arguments, Mapping):
        raise DataError(f"{place}: the arguments of a tool call are {type(arguments).__name__}, not an object")
    return {**plain, "arguments": arguments}


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{what}: {text[:40]!r} is no JSON: {error}") from error
