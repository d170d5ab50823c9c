"""Turns of a conversation as the messages a chat template takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def alternating(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages whose roles alternate, as many templates want them: neighbours of one role become one message.

    Args:
        turns: role and content of each.
    """
    messages: list[dict[str, str]] = []
    for role, content in turns:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def content_of(completion: Any) -> str:
    """The text of a completion that may be a message or a list of messages, of which the last one counts."""
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        completion = completion[-1] if completion else ""
    return str(completion.get("content") or "") if isinstance(completion, Mapping) else str(completion)
