"""Preference rows: a prompt, a chosen and a rejected completion, and a margin where a column for it is named.

Chosen and rejected are text, or messages. Messages that do not begin with the assistant are whole conversations:
their common beginning is the prompt, whatever a prompt column says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.offline import OfflineDataConfig
from ..errors import DataError
from ..tokenizers.tokenizer import Conversation, Tokenizer
from .examples import Encoded, encode_answer, encode_messages, number, read_text


def encode_pair(row: Mapping[str, Any], config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """Prompt, (chosen, rejected) and ``margin``.

    Raises:
        DataError: a part that is missing or empty, or conversations that differ from the first message on.
    """
    chosen, rejected = read_text(row, config, "chosen"), read_text(row, config, "rejected")
    numbers = {"margin": number(row, config, "margin")} if "margin" in config.columns else {}
    if whole_conversation(chosen) and whole_conversation(rejected):
        assert isinstance(chosen, list)
        assert isinstance(rejected, list)
        start = common_beginning(chosen, rejected)
        encoded = [encode_messages(messages, start, config, tokenizer) for messages in (chosen, rejected)]
    else:
        prompt = read_text(row, config, "prompt")
        encoded = [encode_answer(prompt, answer, config, tokenizer) for answer in (chosen, rejected)]
    (before, liked), (other, disliked) = encoded
    if before.tolist() != other.tolist():
        raise DataError("the prompt has other tokens before chosen than before rejected")
    return Encoded(prompt=before, completions=(liked, disliked), numbers=numbers)


def whole_conversation(value: str | Conversation) -> bool:
    """Whether messages include those that were answered."""
    return isinstance(value, list) and value[0]["role"] != "assistant"


def common_beginning(chosen: Conversation, rejected: Conversation) -> int:
    """Messages that both begin with: the prompt.

    Raises:
        DataError: there are none, or the conversations are equal.
    """
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise DataError("chosen and rejected are the same conversation")
    if not shared:
        raise DataError("chosen and rejected differ from the first message on: there is no common prompt")
    return shared
