"""Text cut at the special tokens written in it, for libraries that only know plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


class SpecialTokens:
    """Special tokens by text; where two start at the same place the longest is taken."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        self.texts = {token: text for text, token in ids.items()}
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in longest_first)) if ids else None

    def encode(self, text: str, plain: Callable[[str], list[int]]) -> list[int]:
        """Ids of the text: special tokens as themselves, what lies between them by ``plain``."""
        found: list[int] = []
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() > start:
                found += plain(text[start : match.start()])
            found.append(self.ids[match.group()])
            start = match.end()
        return found + plain(text[start:]) if start < len(text) else found
