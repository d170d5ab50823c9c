"""Every message reaches the model: what a chat template leaves out of its text is found, and the row refused.

A template ignores roles and keys that it does not know. Each text of a message must be in the rendered text, or
change it; tool calls must change it. Templates disagree on the form of some messages, so the forms are tried in turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn

from ..errors import DataError
from .literals import unmarked
from .tokenizer import Conversation, Message, Tokenizer

BOOKKEEPING = frozenset({"role", "weight", "loss", "tool_call_id", "id"})
USUAL_ROLES = ("system", "user", "assistant", "tool")
SHORT = 8  # texts with fewer characters may occur by chance
MARK = "\nq7Z"
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # names of one thing; a template reads one of the first two


def fit_conversation(
    messages: Conversation,
    tokenizer: Tokenizer,
    variables: Mapping[str, Any] | None = None,
    *,
    trained: Collection[int] = (),
    generation_prompt: bool = True,
) -> Conversation:
    """Return the messages in the form of which the chat template writes every part.

    Args:
        messages: the conversation.
        tokenizer: a tokenizer with a chat template.
        variables: further names that the template reads.
        trained: places of the messages that are learned; a template may drop earlier thoughts of others only.
        generation_prompt: the text ends with what precedes an answer.

    Raises:
        DataError: the template refuses the conversation, or leaves a message, a key or the tools out.
    """
    problems: list[tuple[int, DataError]] = []
    for form in forms(messages):
        rendering = _Rendering(form, tokenizer, variables or {}, generation_prompt)
        try:
            rendering.check(trained)
            return form
        except DataError as error:
            problems.append((rendering.found, error))
    refused = problems[0][0] < 0  # the template's own words on the messages as they are say most
    raise problems[0][1] if refused else max(problems, key=lambda problem: problem[0])[1]


class _Rendering:
    """A conversation with the text that a template makes of it."""

    def __init__(
        self, messages: Conversation, tokenizer: Tokenizer, variables: Mapping[str, Any], generation_prompt: bool
    ) -> None:
        self.messages, self.tokenizer = messages, tokenizer
        self.variables, self.generation_prompt = variables, generation_prompt
        self.found = -1  # parts of messages that the text has; below 0 where the template gave none

    def check(self, trained: Collection[int]) -> None:
        """Raise DataError for the first part of the conversation that the text lacks."""
        text = self._render(self.messages, self.variables)
        self.found = place = 0
        for number, message in enumerate(self.messages):
            _check_arguments(message, text, number)
            if number in trained and (thought := _thought(message["content"])) and thought not in text:
                self._refuse(number, "the thought in its content", kept=thought in self._finished(number))
            for key, value in message.items():
                if key in BOOKKEEPING or (key == "name" and message["role"] == "tool") or _is_blank(value):
                    continue
                at = text.find(value.strip(), place) if isinstance(value, str) else -1
                if at >= 0 and len(value.strip()) >= SHORT and message["role"] in USUAL_ROLES:
                    place = at
                    self.found += 1
                    continue
                changed = _changed(self.messages, number, key)
                if self._differs(changed, text):
                    self.found += 1
                    continue
                kept = message["role"] == "assistant" and self._differs(
                    changed[: number + 1], self._finished(number), generation_prompt=False
                )
                if number in trained or not kept:
                    self._refuse(number, repr(key), kept=kept)
        if self.variables.get("tools") and self._render(self.messages, {**self.variables, "tools": None}) == text:
            raise DataError(
                "the row has tools, and the chat template does not write them; accepted: another data.chat_template"
            )

    def _refuse(self, number: int, what: str, *, kept: bool) -> NoReturn:
        """Raise the error of a message of which a part is left out; ``kept``: it is written where it is the last."""
        last = number == len(self.messages) - 1
        raise rewritten(number) if kept and not last else _left_out(number, self.messages[number], what)

    def _finished(self, number: int) -> str:
        return self._render(self.messages[: number + 1], self.variables, generation_prompt=False)

    def _differs(self, messages: Conversation, text: str, *, generation_prompt: bool | None = None) -> bool:
        try:
            return self._render(messages, self.variables, generation_prompt=generation_prompt) != text
        except DataError:
            return True

    def _render(
        self, messages: Conversation, variables: Mapping[str, Any], *, generation_prompt: bool | None = None
    ) -> str:
        ends_open = self.generation_prompt if generation_prompt is None else generation_prompt
        return unmarked(self.tokenizer.render(messages, generation_prompt=ends_open, variables=variables))


def forms(messages: Conversation) -> Iterator[Conversation]:
    """Yield the messages as they are, then in the other forms that templates expect."""
    yield from _forms_of_content(messages)
    if any(name in message for message in messages for name in THOUGHTS):
        for name in THOUGHTS[:2]:
            yield from _forms_of_content([_rename_thought(message, name) for message in messages])


def _rename_thought(message: Message, name: str) -> Message:
    return {name if key in THOUGHTS else key: value for key, value in message.items()}


def _forms_of_content(messages: Conversation) -> Iterator[Conversation]:
    yield messages
    if any("tool_calls" in message for message in messages):
        for forms in ((_without_content,), (_arguments_as_text,), (_without_content, _arguments_as_text)):
            changed = messages
            for form in forms:
                changed = [form(message) for message in changed]
            yield changed
    if all(isinstance(message["content"], str) for message in messages):
        yield [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _without_content(message: Message) -> Message:
    return {**message, "content": None} if "tool_calls" in message and not message["content"] else message


def _arguments_as_text(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_map_arguments(call, _as_json) for call in message["tool_calls"]]}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _map_arguments(call: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _map_arguments(call["function"], change)}
    return {**call, "arguments": change(call.get("arguments"))}


def _check_arguments(message: Message, text: str, number: int) -> None:
    """Raise DataError where the template wrote arguments as Python does, not as JSON."""
    for call in message.get("tool_calls", ()):
        arguments = (call.get("function") or call).get("arguments")
        if isinstance(arguments, Mapping) and arguments and str(arguments) in text and _as_json(arguments) not in text:
            raise DataError(f"message {number}: the chat template does not write the arguments of a tool call as JSON")


def _thought(content: Any) -> str:
    """Return the thought that a content begins with; empty if there is none."""
    before, end, _ = content.partition("</think>") if isinstance(content, str) else ("", "", "")
    return before.rpartition("<think>")[2].strip() if end else ""


def _is_blank(value: Any) -> bool:
    return not value.strip() if isinstance(value, str) else value is None or value in ([], {})


def _changed(messages: Conversation, number: int, key: str) -> Conversation:
    """Return the conversation with one text longer, or without one other value."""
    message = dict(messages[number])
    value = message.pop(key)
    if isinstance(value, str):
        message[key] = value + MARK
    elif key == "content":
        texts = any("text" in part for part in value)  # without any, the images are left out
        message[key] = [{**part, "text": part["text"] + MARK} if "text" in part else part for part in value if texts]
    return [*messages[:number], message, *messages[number + 1 :]]


def rewritten(number: int) -> DataError:
    """Return the error for a trained message that the template writes otherwise once others follow."""
    return DataError(
        f"the tokens of message {number} (assistant) cannot be told: the chat template writes the conversation up to "
        "there otherwise once the rest follows (some drop earlier reasoning); accepted: data.turns: apart (an example "
        "for each assistant message of objective sft), rows with one assistant message at the end, a name in "
        "data.rendering.chat_template_kwargs with which the template keeps it, or another data.chat_template"
    )


def _left_out(number: int, message: Message, what: str) -> DataError:
    role = message["role"]
    other = "" if role in USUAL_ROLES else f" (role {role!r} may be unknown to it; most read system)"
    return DataError(
        f"message {number} ({role}): the chat template writes nothing of {what}{other}; accepted: keys and roles that "
        "the template reads, or another data.chat_template"
    )
