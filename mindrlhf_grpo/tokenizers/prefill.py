"""Prompts that end with an assistant message: the completion continues it, no new turn is opened.

The place is found by a mark after the message, as transformers' ``continue_final_message`` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from .literals import CUT
from .tokenizer import Conversation, Message, Tokenizer

TAIL = CUT + " "  # a template that strips messages takes the space


def is_prefilled(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether the last message is one of the assistant that a completion continues."""
    return bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]


def chat_prompt(messages: Conversation, tokenizer: Tokenizer, variables: Mapping[str, Any] | None = None) -> list[int]:
    """Return the ids of a prompt, the conversation up to where the completion begins.

    Raises:
        DataError: as ``tokenizer.chat``, or the template leaves out the message that is continued.
    """
    if not is_prefilled(messages):
        return tokenizer.chat(messages, variables=variables)
    ending = [*messages[:-1], with_tail(messages[-1], TAIL)]
    text = tokenizer.render(ending, generation_prompt=False, variables=variables)
    before, mark, after = text.rpartition(CUT)
    if not mark:
        raise DataError(
            f"message {len(messages) - 1} (assistant) is to be continued, and the chat template does not write it"
        )
    return tokenizer.encode(before if after.startswith(" ") else before.rstrip())


def with_tail(message: Message, tail: str) -> Message:
    """Return the message with its content continued by ``tail``."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + tail}
    return {**message, "content": [*content, {"type": "text", "text": tail}]}


def answered(messages: Conversation, answer: str) -> Conversation:
    """Return the conversation with an answer: a message of its own, or the rest of the last one that it continues."""
    if is_prefilled(messages):
        return [*messages[:-1], with_tail(messages[-1], answer)]
    return [*messages, {"role": "assistant", "content": answer}]
