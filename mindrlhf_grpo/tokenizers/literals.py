"""Special tokens that a message writes are its text: no message opens or ends a turn.

A mark inside each of them goes through the chat template with the message and tells the tokenizer, which takes it out
again. The mark is half a surrogate pair, which no text holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

MARK = "\udb7f"
CUT = "\udb7e"  # another half, which marks a place in a message
BARS = re.compile(r"[<\[][|｜]|[|｜][>\]]\Z")


class Literals:
    """The special tokens that messages cannot write, by text."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        self.tokens = frozenset(ids.values())
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if ids else None

    def found(self, value: Any) -> list[str]:
        """Return the special tokens that a text, or every text inside lists and mappings, writes."""
        return [token for text in _texts(value) for token in self._pattern.findall(text)] if self._pattern else []

    def marked(self, value: Any) -> Any:
        """Return a value in which a mark parts each special token of every text."""
        if isinstance(value, str):
            # What is left of two tokens that overlap may still hold one.
            while self._pattern and self._pattern.search(value):
                value = self._pattern.sub(lambda match: match[0][0] + MARK + match[0][1:], value)
            return value
        if isinstance(value, Mapping):
            return {self.marked(key): self.marked(item) for key, item in value.items()}
        return [self.marked(item) for item in value] if isinstance(value, (list, tuple)) else value

    def among(self, ids: Sequence[int]) -> list[int]:
        """Return those of the ids that are special tokens."""
        return [token for token in ids if token in self.tokens]

    def without(self, text: str) -> str:
        """Return a text without its special tokens, those that are marked in full."""
        return unmarked(self._pattern.sub("", text) if self._pattern else text)


def unmarked(text: str) -> str:
    """Return a text without marks."""
    return text.replace(MARK, "")


def control_tokens(added: Mapping[str, tuple[int, bool]], named: Collection[int]) -> dict[str, int]:
    """Return the tokens that can begin or end a turn, by text.

    These are the tokens that the model's files call special or name (BOS, end tokens), and all that are written in
    bars (``<|user|>``), which some files forget to call special. Pairs of tags, ``<think>`` and ``</think>``, are none:
    they belong to what a message says.

    Args:
        added: text -> (id, special) of the tokens that are recognised in text.
        named: the ids that have a name.
    """
    return {
        text: token
        for text, (token, special) in added.items()
        if len(text) > 1 and (token in named or BARS.search(text) or (special and _partner(text) not in added))
    }


def _partner(tag: str) -> str:
    """Return the tag that closes or opens what ``tag`` opens or closes."""
    return f"<{tag[2:]}" if tag.startswith("</") else f"</{tag[1:]}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
