"""Stop strings, searched in the decoded text as it grows token by token."""

from __future__ import annotations

from collections.abc import Sequence

from ..tokenizers.tokenizer import Tokenizer

MARGIN = 8  # tokens before a possible match: a decoder may treat the first token specially


class StopStrings:
    """Finds the token that completes a stop string.

    Most tokens are ruled out by decoding the last few; all of the text is decoded only when these hold a stop string.

    Args:
        strings: empty ones are ignored.
        min_tokens: a string completed by an earlier token does not count.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Tokenizer, *, min_tokens: int = 0) -> None:
        self.strings = tuple(string for string in strings if string)
        self.tokenizer, self.min_tokens = tokenizer, min_tokens
        self.reach = max((len(string.encode()) for string in self.strings), default=0) + MARGIN
        self.silent: dict[int, bool] = {}

    def cut(self, ids: Sequence[int]) -> str | None:
        """The text before the first stop string if the last token completes one, else None."""
        if not self.strings or len(ids) <= self.min_tokens:
            return None
        if not self._holds(self.tokenizer.decode(self._tail(ids))):
            return None
        text, before = self.tokenizer.decode(ids), self.tokenizer.decode(ids[:-1])
        starts = [self._new_match(text, before, string) for string in self.strings]
        matches = [start for start in starts if start >= 0]
        return text[: min(matches)] if matches else None

    def _holds(self, text: str) -> bool:
        return any(string in text for string in self.strings)

    def _new_match(self, text: str, before: str, string: str) -> int:
        """The start of a match that the last token has completed; -1: none."""
        return text.find(string, max(0, len(common_prefix(text, before)) - len(string) + 1))

    def _tail(self, ids: Sequence[int]) -> list[int]:
        """The last visible tokens, enough for the longest stop string: each gives at least one byte of it."""
        tail: list[int] = []
        for token in reversed(ids):
            if not self._is_silent(token):
                tail.append(token)
                if len(tail) == self.reach:
                    break
        return tail[::-1]

    def _is_silent(self, token: int) -> bool:
        if token not in self.silent:
            self.silent[token] = self.tokenizer.decode([token]) == ""
        return self.silent[token]


def common_prefix(one: str, other: str) -> str:
    """The longest text that both begin with."""
    length = min(len(one), len(other))
    while one[:length] != other[:length]:
        length -= 1
    return one[:length]
