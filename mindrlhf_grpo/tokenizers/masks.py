"""Which tokens of a conversation are trained: the assistant's, found as token spans, never by searching text.

The chat template is rendered up to each assistant message and up to its end, and each of these is tokenised. Every
one must be a beginning of the whole conversation's tokens; where a template rewrites earlier turns it is not, and
the row is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..tokenizers.tokenizer import Tokenizer
from ..types import FloatArray, IntArray
from .tokenizer import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Tokens after a prompt ``[T]`` and which of them are trained ``[T]`` (1 or 0)."""

    ids: IntArray
    mask: FloatArray

    def cut(self, tokens: int) -> Completion:
        """The first ``tokens`` of it."""
        return Completion(ids=self.ids[:tokens], mask=self.mask[:tokens])

    def __len__(self) -> int:
        return len(self.ids)


def completion_of(ids: Sequence[int], mask: Sequence[int]) -> Completion:
    """A completion from plain lists."""
    return Completion(ids=np.asarray(ids, dtype=np.int32), mask=np.asarray(mask, dtype=np.float32))


def encode_text(text: str, tokenizer: Tokenizer) -> Completion:
    """Plain text with an end token, all of it trained."""
    ids = tokenizer.encode(text)
    if not ids or ids[-1] not in tokenizer.eos_ids:
        ids = [*ids, tokenizer.eos_ids[0]]
    return completion_of(ids, [1] * len(ids))


def encode_conversation(messages: Conversation, start: int, tokenizer: Tokenizer) -> tuple[IntArray, Completion]:
    """A conversation as prompt ``[P]`` and completion ``[T]``.

    The prompt is everything before the first assistant message from ``start`` on, with what makes the assistant
    speak; the completion is the rest, trained where the assistant speaks. It ends with the end token of the last
    assistant message: what a template writes after that is left out, and one is appended where it writes none.

    Raises:
        DataError: no assistant message, or a template whose spans cannot be told.
    """
    spoken = [place for place in range(start, len(messages)) if messages[place]["role"] == "assistant"]
    if not spoken:
        raise DataError("the conversation has no assistant message to learn from")
    messages = messages[: spoken[-1] + 1]
    whole = tokenizer.chat(messages, generation_prompt=False)
    spans: list[tuple[int, int]] = []
    for place in spoken:
        before = tokenizer.chat(messages[:place])
        after = whole if place == spoken[-1] else tokenizer.chat(messages[: place + 1], generation_prompt=False)
        for tokens in (before, after):
            check_beginning(tokens, whole, place)
        spans.append((len(before), len(before) + said(after[len(before) :], tokenizer)))
    prompt, end = spans[0][0], spans[-1][1]
    if not prompt:
        raise DataError("the chat template gives no token before the first assistant message")
    ids, mask = list(whole[prompt:end]), [0] * (end - prompt)
    for first, last in spans:
        mask[first - prompt : last - prompt] = [1] * (last - first)
    if ids[-1] not in tokenizer.eos_ids:
        ids, mask = [*ids, tokenizer.eos_ids[0]], [*mask, 1]
    return np.asarray(whole[:prompt], dtype=np.int32), completion_of(ids, mask)


def said(span: Sequence[int], tokenizer: Tokenizer) -> int:
    """Tokens of an assistant's span that a model has to produce: up to its end token, all where there is none."""
    ends = [place for place, token in enumerate(span) if token in tokenizer.eos_ids]
    length = ends[-1] + 1 if ends else len(span)
    if not length:
        raise DataError("the chat template gives no token for an assistant message")
    return length


def check_beginning(tokens: Sequence[int], whole: Sequence[int], place: int) -> None:
    """Raise DataError unless the conversation's tokens begin with those of its first messages."""
    if list(whole[: len(tokens)]) != list(tokens):
        raise DataError(
            f"the tokens of message {place} (assistant) cannot be told: the chat template writes the conversation up to "
            "there otherwise once the rest follows (some drop earlier reasoning); accepted: rows with one assistant "
            "message at the end, or another data.chat_template"
        )
