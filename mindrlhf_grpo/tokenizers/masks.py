"""Loss masks of conversations: the assistant's tokens, from where renderings of the chat template agree.

The chat template is rendered up to each assistant message and up to its end; the assistant's text lies between the
two. Where a template rewrites earlier turns as the conversation continues, the span is not known and the row is
refused. No span is found by searching for the message's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..types import FloatArray, IntArray
from .literals import CUT
from .tokenizer import Conversation, Message, Tokenizer
from .traces import rewritten

THOUGHT_END = "</think>"
NO_PROMPT = (
    "the conversation begins with the assistant (message 0), and the chat template writes nothing before it that could "
    "be the prompt; accepted: a user or system message first (data.system_prompt), or weight: 0 on message 0"
)
PROBES = ("A", "0")  # answers without a first letter in common


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Tokens after a prompt ``[T]`` and their loss mask ``[T]`` (1 or 0)."""

    ids: IntArray
    mask: FloatArray

    def cut(self, tokens: int) -> Completion:
        """Return the first ``tokens`` tokens."""
        return Completion(ids=self.ids[:tokens], mask=self.mask[:tokens])

    def preceded_by(self, ids: IntArray) -> Completion:
        """Return the completion after further trained tokens."""
        return make_completion([*ids, *self.ids], [*np.ones(len(ids)), *self.mask]) if len(ids) else self

    def __len__(self) -> int:
        return len(self.ids)


def make_completion(ids: Sequence[int], mask: Sequence[float]) -> Completion:
    """Make a completion from plain lists."""
    return Completion(ids=np.asarray(ids, dtype=np.int32), mask=np.asarray(mask, dtype=np.float32))


def encode_text(text: str, tokenizer: Tokenizer) -> Completion:
    """Encode plain text with an end token, all of it trained."""
    ids = tokenizer.encode(text)
    if not ids or ids[-1] not in tokenizer.eos_ids:
        ids = [*ids, tokenizer.eos_ids[0]]
    return make_completion(ids, [1] * len(ids))


def encode_conversation(
    messages: Conversation,
    start: int,
    tokenizer: Tokenizer,
    variables: Mapping[str, Any] | None = None,
    *,
    continued: str = "",
) -> tuple[IntArray, Completion]:
    """Encode a conversation as prompt ``[P]`` and completion ``[T]``.

    The prompt is everything before the first assistant message from ``start`` on, including the generation prompt.
    The completion is the rest, of which the assistant's tokens are trained. It ends with the end token of the last
    assistant message: anything the template writes after it is left out, and one is appended if the template writes
    none. Of message ``start`` the beginning ``continued`` belongs to the prompt.

    Raises:
        DataError: there is no assistant message, or the template hides the assistant's spans.
    """
    assistant = [place for place in range(start, len(messages)) if is_trained(messages[place])]
    if not assistant:
        raise DataError("the conversation has no assistant message to learn from")
    messages = messages[: assistant[-1] + 1]
    text = tokenizer.render(messages, generation_prompt=False, variables=variables)
    renderings = Renderings(messages, text, tokenizer, variables or {})
    try:
        spans = [renderings.span(place) for place in assistant]
    except DataError:
        if assistant[0] == 0:
            raise DataError(NO_PROMPT) from None
        raise
    if not spans[0][0]:
        raise DataError(NO_PROMPT)
    if continued and assistant[0] == start:
        spans[0] = (renderings.place_after(start, continued), spans[0][1])
    ids, flags = _tokens_at_once(text, spans, tokenizer) or _tokens_in_parts(text, spans, tokenizer)
    prompt = flags.index(1)
    ids, mask = ids[: _last(flags) + 1], flags[prompt : _last(flags) + 1]
    if ids[-1] not in tokenizer.eos_ids:
        ids, mask = [*ids, tokenizer.eos_ids[0]], [*mask, 1]
    return np.asarray(ids[:prompt], dtype=np.int32), make_completion(ids[prompt:], mask)


def is_trained(message: Message) -> bool:
    """Tell whether a message is learned: the assistant's, unless it has ``weight: 0`` or ``loss: false``."""
    return message["role"] == "assistant" and bool(message.get("weight", 1)) and message.get("loss") is not False


class Renderings:
    """The renderings of a conversation's beginnings, compared with ``text``, the rendering of all of it."""

    def __init__(self, messages: Conversation, text: str, tokenizer: Tokenizer, variables: Mapping[str, Any]) -> None:
        self.messages, self.text = messages, text
        self.tokenizer, self.variables = tokenizer, variables
        self.ends = [end for token in tokenizer.eos_ids if (end := tokenizer.piece(token))]

    def span(self, place: int) -> tuple[int, int]:
        """Return the characters of ``text`` that an assistant's message is: first, and last + 1.

        Raises:
            DataError: the template writes the conversation otherwise once the rest follows.
        """
        start = self.first_character(place)
        if place == len(self.messages) - 1:
            return start, len(self.text)
        finished = self._render(self.messages[: place + 1])
        if self.text.startswith(finished):
            return start, len(finished)
        # Some templates close a finished conversation with a token of its own, which is not written before a next turn.
        end = self._after_last_end(start, count_shared([finished, self.text]))
        if end is None or self._without_ends(finished[end:]):
            raise rewritten(place)
        return start, end

    def first_character(self, place: int) -> int:
        """Return the first character of an assistant's message in ``text``.

        It follows the generation prompt. Where ``text`` continues otherwise than a generation prompt (which opens a
        thought that the message has not, say), it is the end of what they have in common whatever the message is.
        """
        before = self.messages[:place]
        prompt = self._render(before, generation_prompt=True)
        if self.text.startswith(prompt):
            return len(prompt)
        renderings = [prompt, self.text]
        for letter in PROBES:
            renderings.append(self._render([*before, _probe(self.messages[place], letter)]))
        start = count_shared(renderings)
        if start < count_shared([prompt, self._render(before)]):
            raise rewritten(place)
        return start

    def place_after(self, place: int, beginning: str) -> int:
        """Return the first character of ``text`` after the beginning of a message's content.

        Raises:
            DataError: the template writes the content otherwise.
        """
        message = {**self.messages[place], "content": _cut_after(self.messages[place]["content"], beginning)}
        before, _, after = self._render([*self.messages[:place], message, *self.messages[place + 1 :]]).rpartition(CUT)
        if before + after != self.text:
            raise DataError(
                f"message {place} (assistant) continues the prompt's last message, and the chat template does not write "
                "one after the other; accepted: a prompt that ends with another role, or another data.chat_template"
            )
        return len(before)

    def _render(self, messages: Conversation, *, generation_prompt: bool = False) -> str:
        return self.tokenizer.render(messages, generation_prompt=generation_prompt, variables=self.variables)

    def _after_last_end(self, start: int, stop: int) -> int | None:
        places = [(at, end) for end in self.ends if (at := self.text.rfind(end, start, stop)) >= 0]
        return max(at + len(end) for at, end in places) if places else None

    def _without_ends(self, text: str) -> str:
        for end in self.ends:
            text = text.replace(end, "")
        return text.strip()


def _cut_after(content: Any, beginning: str) -> Any:
    """Return a content with a mark after its beginning."""
    if isinstance(content, str):
        return f"{beginning}{CUT}{content[len(beginning) :]}"
    return [{**content[0], "text": _cut_after(content[0]["text"], beginning)}, *content[1:]]


def _probe(message: Message, letter: str) -> Message:
    """Return the message with other texts that begin with ``letter``; thoughts remain thoughts."""
    changed = dict(message)
    if isinstance(message["content"], list):
        changed["content"] = [{"type": "text", "text": letter}]
    for key, value in message.items():
        if key != "role" and isinstance(value, str) and value.strip():
            thoughtful = f"<think>\n{letter}\n{THOUGHT_END}\n\n{letter}"
            changed[key] = thoughtful if THOUGHT_END in value else letter
    return changed


def _tokens_at_once(
    text: str, spans: Sequence[tuple[int, int]], tokenizer: Tokenizer
) -> tuple[list[int], list[int]] | None:
    """Return ids and flags of trained tokens of a text tokenised as one; None if a token crosses the end of a span."""
    ids = tokenizer.encode(text)
    flags = [0] * len(ids)
    for first, last in spans:
        before, after = (tokenizer.encode(text[:place]) if place < len(text) else ids for place in (first, last))
        if ids[: len(before)] != before or ids[: len(after)] != after:
            return None
        length = trained_length(ids[len(before) : len(after)], tokenizer)
        flags[len(before) : len(before) + length] = [1] * length
    return ids, flags


def _tokens_in_parts(text: str, spans: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return ids and flags of trained tokens of a text tokenised in parts: trained and other text in turn.

    Raises:
        DataError: the parts do not decode to the text, as where the tokenizer marks the beginning of a text.
    """
    ids: list[int] = []
    flags: list[int] = []
    done = 0
    for first, last in spans:
        other, trained = tokenizer.encode(text[done:first]), tokenizer.encode(text[first:last])
        length = trained_length(trained, tokenizer)
        ids += [*other, *trained]
        flags += [0] * len(other) + [1] * length + [0] * (len(trained) - length)
        done = last
    if tokenizer.decode(ids) != tokenizer.decode(tokenizer.encode(text)):
        raise DataError(
            "the tokens of the assistant cannot be told: one of them lies across the end of the prompt, and the "
            "tokenizer writes the text otherwise when it is cut there; accepted: another data.chat_template"
        )
    return ids, flags


def trained_length(span: Sequence[int], tokenizer: Tokenizer) -> int:
    """Count the tokens of an assistant's span that a model has to produce: up to its end token, or all without one."""
    length = _last([int(token in tokenizer.eos_ids) for token in span]) + 1 or len(span)
    if not length:
        raise DataError("the chat template gives no token for an assistant message")
    return length


def count_shared(texts: Sequence[str]) -> int:
    """Count the characters with which all texts begin."""
    return next(
        (n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), min(map(len, texts))
    )


def _last(flags: Sequence[int]) -> int:
    """Return the place of the last flag that is set; -1 if there is none."""
    return max((place for place, flag in enumerate(flags) if flag), default=-1)
