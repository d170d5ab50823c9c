"""Splitting text at its special tokens, for libraries that only know plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


class SpecialTokens:
    """Special tokens by text; of two that start at the same place the longer one wins."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        self.texts = {token: text for text, token in ids.items()}
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in longest_first)) if ids else None

    def encode(self, text: str, plain: Callable[[str], list[int]]) -> list[int]:
        """Encode text: special tokens by their ids, the text between them by ``plain``."""
        encoded: list[int] = []
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() > start:
                encoded += plain(text[start : match.start()])
            encoded.append(self.ids[match.group()])
            start = match.end()
        return encoded + plain(text[start:]) if start < len(text) else encoded
