"""Search for keywords in texts, in languages with and without spaces between words.

Texts are compared in Unicode's NFKC form with case folded and punctuation removed (not inside numbers). Chinese,
Japanese and Korean keywords are found anywhere; where words are written apart (English) only as whole words. A number
is never found inside a longer one.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from .function_words import content_terms, korean_pieces

UNSPACED = ("zh", "ja")  # spaces between words mean nothing
INSIDE_WORDS = ("zh", "ja", "ko")  # a keyword may be followed by particles without a space
SPACE = re.compile(r"\s+")
WORD = re.compile(r"\w+")
JSON_OBJECT = re.compile(r"\{[^{}]*\}")
LONGEST_TERM = 12


@lru_cache(maxsize=4096)
def normalised(text: str, language: str) -> str:
    """Return the text in the form that is compared: NFKC, case folded, no punctuation; no spaces in Chinese and Japanese."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = [
        letter if not _is_mark(letter) or _inside_number(folded, at) else " " for at, letter in enumerate(folded)
    ]
    return SPACE.sub("" if language in UNSPACED else " ", "".join(letters)).strip()


def contains(text: str, keyword: str, language: str) -> bool:
    """Return whether the keyword is in the text; an empty keyword, or one of punctuation alone, never is."""
    pattern = normalised(keyword, language)
    if not pattern:
        return False
    edge = r"\w" if language not in INSIDE_WORDS else r"\d"
    before = rf"(?<!{edge})" if re.match(edge, pattern[0]) else ""
    after = rf"(?!{edge})" if re.match(edge, pattern[-1]) else ""
    return re.search(before + re.escape(pattern) + after, normalised(text, language)) is not None


def slots_filled(text: str, slots: Sequence[str | Sequence[str]], language: str) -> list[bool]:
    """Return for each slot whether the text has its keyword, or any of its equivalents if it is a list.

    Slots without a letter or digit are left out.
    """
    filled = []
    for slot in slots:
        choices = [slot] if isinstance(slot, str) else list(slot)
        if any(normalised(choice, language) for choice in choices):
            filled.append(any(contains(text, choice, language) for choice in choices))
    return filled


def read_keywords(reply: str, key: str = "keywords") -> list[str]:
    """Return the list of texts under ``key`` in the first JSON object of a reply that has one; else an empty list."""
    for match in JSON_OBJECT.finditer(reply):
        try:
            words = json.loads(match[0])[key]
        except (ValueError, KeyError):
            continue
        if isinstance(words, list):
            return [word for word in words if isinstance(word, str) and word.strip()]
    return []


def shared_terms(text: str, source: str, language: str, *, without: str = "", most: int = 3) -> list[str]:
    """Return the longest pieces that a text shares with its source but not with ``without``.

    Pieces are runs of letters in Chinese and Japanese, of words in English, and in Korean of words whose last one may be
    cut. None begins or ends with a function word, or has punctuation in it. Pieces of less than 4 letters (in English) or
    2 are left out; longer ones are cut after 12 letters or words.
    """
    if language == "ko":
        terms = {piece for piece in korean_pieces(text, source) if not contains(without, piece, language)}
    else:
        pieces = _free_pieces(text, source, without, language)
        terms = {term for piece in pieces for term in content_terms(piece, language)}
    letters = 4 if language == "en" else 2
    long_enough = [term for term in terms if len(normalised(term, language)) >= letters]
    return sorted(long_enough, key=lambda term: (-len(term), term))[:most]


def _free_pieces(text: str, source: str, without: str, language: str) -> Iterator[str]:
    """Yield the runs of letters or words that a text shares with its source, less those that it shares with ``without``."""
    one, other, taken = (list(side) if language in UNSPACED else WORD.findall(side) for side in (text, source, without))
    least = 2 if language in UNSPACED else 1
    free = [True] * len(one)
    for start, size in _common(one, taken):
        free[start : start + size] = [size < least] * size
    between = "" if language in UNSPACED else " "
    for start, size in _common(one, other):
        for is_free, run in itertools.groupby(range(start, start + size), key=free.__getitem__):
            if is_free:
                yield between.join(one[at] for at in list(run)[:LONGEST_TERM])


def _common(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """Return start and length, within ``one``, of the longest block that both have, and of those before and after it."""
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    blocks, rest = list[tuple[int, int]](), [(0, len(one))]
    while rest:
        first, last = rest.pop()
        found = matcher.find_longest_match(first, last, 0, len(other))
        if found.size:
            blocks.append((found.a, found.size))
            rest += [(first, found.a), (found.a + found.size, last)]
    return blocks


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"


def _inside_number(text: str, at: int) -> bool:
    return 0 < at < len(text) - 1 and text[at - 1].isdigit() and text[at + 1].isdigit()
