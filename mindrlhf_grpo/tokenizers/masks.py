"""Loss masks of conversations: the assistant's tokens, as token spans, never by searching text.

The chat template is rendered up to each assistant message and up to its end, and each rendering is tokenised. Each
must be a prefix of the full conversation's tokens. Where a template rewrites earlier turns it is not, and the row is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..types import FloatArray, IntArray
from .tokenizer import Conversation, Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Tokens after a prompt ``[T]`` and their loss mask ``[T]`` (1 or 0)."""

    ids: IntArray
    mask: FloatArray

    def cut(self, tokens: int) -> Completion:
        """Return the first ``tokens`` tokens."""
        return Completion(ids=self.ids[:tokens], mask=self.mask[:tokens])

    def __len__(self) -> int:
        return len(self.ids)


def make_completion(ids: Sequence[int], mask: Sequence[int]) -> Completion:
    """Make a completion from plain lists."""
    return Completion(ids=np.asarray(ids, dtype=np.int32), mask=np.asarray(mask, dtype=np.float32))


def encode_text(text: str, tokenizer: Tokenizer) -> Completion:
    """Encode plain text with an end token, all of it trained."""
    ids = tokenizer.encode(text)
    if not ids or ids[-1] not in tokenizer.eos_ids:
        ids = [*ids, tokenizer.eos_ids[0]]
    return make_completion(ids, [1] * len(ids))


def encode_conversation(messages: Conversation, start: int, tokenizer: Tokenizer) -> tuple[IntArray, Completion]:
    """Encode a conversation as prompt ``[P]`` and completion ``[T]``.

    The prompt is everything before the first assistant message from ``start`` on, including the generation prompt.
    The completion is the rest, of which the assistant's tokens are trained. It ends with the end token of the last
    assistant message: anything the template writes after it is left out, and one is appended if the template writes
    none.

    Raises:
        DataError: there is no assistant message, or the template hides the assistant's spans.
    """
    assistant = [place for place in range(start, len(messages)) if messages[place]["role"] == "assistant"]
    if not assistant:
        raise DataError("the conversation has no assistant message to learn from")
    messages = messages[: assistant[-1] + 1]
    full = tokenizer.chat(messages, generation_prompt=False)
    spans: list[tuple[int, int]] = []
    for place in assistant:
        before = tokenizer.chat(messages[:place])
        after = full if place == assistant[-1] else tokenizer.chat(messages[: place + 1], generation_prompt=False)
        for tokens in (before, after):
            check_beginning(tokens, full, place)
        spans.append((len(before), len(before) + trained_length(after[len(before) :], tokenizer)))
    prompt, end = spans[0][0], spans[-1][1]
    if not prompt:
        raise DataError("the chat template gives no token before the first assistant message")
    ids, mask = list(full[prompt:end]), [0] * (end - prompt)
    for first, last in spans:
        mask[first - prompt : last - prompt] = [1] * (last - first)
    if ids[-1] not in tokenizer.eos_ids:
        ids, mask = [*ids, tokenizer.eos_ids[0]], [*mask, 1]
    return np.asarray(full[:prompt], dtype=np.int32), make_completion(ids, mask)


def trained_length(span: Sequence[int], tokenizer: Tokenizer) -> int:
    """Count the tokens of an assistant's span that a model has to produce: up to its end token, or all without one."""
    ends = [place for place, token in enumerate(span) if token in tokenizer.eos_ids]
    length = ends[-1] + 1 if ends else len(span)
    if not length:
        raise DataError("the chat template gives no token for an assistant message")
    return length


def check_beginning(tokens: Sequence[int], full: Sequence[int], place: int) -> None:
    """Raise DataError unless the full conversation's tokens begin with those of its first messages."""
    if list(full[: len(tokens)]) != list(tokens):
        raise DataError(
            f"the tokens of message {place} (assistant) cannot be told: the chat template writes the conversation up to "
            "there otherwise once the rest follows (some drop earlier reasoning); accepted: rows with one assistant "
            "message at the end, or another data.chat_template"
        )
