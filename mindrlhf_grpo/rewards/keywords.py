"""Whether a text contains a keyword, in languages with and without spaces between words.

Texts are compared in Unicode's NFKC form with case folded and punctuation removed (not inside numbers). Chinese,
Japanese and Korean keywords are found anywhere; where words are written apart (English) only as whole words. A number
is never found inside a longer one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

UNSPACED = ("zh", "ja")  # spaces between words mean nothing
INSIDE_WORDS = ("zh", "ja", "ko")  # a keyword may be followed by particles without a space
SPACE = re.compile(r"\s+")


@lru_cache(maxsize=4096)
def normalised(text: str, language: str) -> str:
    """The text as it is compared: NFKC, case folded, without punctuation; without spaces in Chinese and Japanese."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = [letter if not _is_mark(letter) or _inside_number(folded, at) else " " for at, letter in enumerate(folded)]
    return SPACE.sub("" if language in UNSPACED else " ", "".join(kept)).strip()


def contains(text: str, keyword: str, language: str) -> bool:
    """Whether the keyword is in the text; an empty keyword (or one of punctuation alone) is nowhere."""
    wanted = normalised(keyword, language)
    if not wanted:
        return False
    edge = r"\w" if language not in INSIDE_WORDS else r"\d"
    before = rf"(?<!{edge})" if re.match(edge, wanted[0]) else ""
    after = rf"(?!{edge})" if re.match(edge, wanted[-1]) else ""
    return re.search(before + re.escape(wanted) + after, normalised(text, language)) is not None


def slots_filled(text: str, slots: Sequence[str | Sequence[str]], language: str) -> list[bool]:
    """Of each slot whether it is filled: by its keyword, or by any of its equivalents if it is a list.

    Slots without a letter or digit are left out.
    """
    found = []
    for slot in slots:
        choices = [slot] if isinstance(slot, str) else list(slot)
        if any(normalised(choice, language) for choice in choices):
            found.append(any(contains(text, choice, language) for choice in choices))
    return found


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"


def _inside_number(text: str, at: int) -> bool:
    return 0 < at < len(text) - 1 and text[at - 1].isdigit() and text[at + 1].isdigit()
