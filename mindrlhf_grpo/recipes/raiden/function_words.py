"""Function words of four languages: what is left of a piece of text without them.

The words are data (``function_words.yaml``). No morphology is done: function words go from the two ends of a piece, and
Japanese particles also between words of another script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ...config.yaml_source import parse

WORD = re.compile(r"\w+")
HIRAGANA = r"\u3041-\u309f"
LEAST = 2  # syllables of a Korean word that a particle may be cut from


def content_terms(piece: str, language: str) -> list[str]:
    """Return the parts of a piece that carry content: without punctuation, and without function words at their ends."""
    if language == "en":
        words = WORD.findall(piece)
        known = set(_table("en")["words"])
        content = [at for at, word in enumerate(words) if word.casefold() not in known]
        return [" ".join(words[content[0] : content[-1] + 1])] if content else []
    if language == "ko":
        return [one for one in WORD.findall(piece) if not _is_korean_function_word(one)]
    parts = re.split(r"\s+", "".join(letter if _is_content(piece, at) else " " for at, letter in enumerate(piece)))
    if language == "ja":
        parts = [part for whole in parts for part in _between_particles().split(whole)]
    trimmed = [_trimmed(part, language) for part in parts if part]
    return [part for part in trimmed if part]


def korean_pieces(text: str, source: str) -> list[str]:
    """Return the runs of words that a Korean text shares with its source, the last of each without its particle.

    A word is shared from its beginning; what differs at its end, or is a particle, does not count.
    """
    known = WORD.findall(source)
    joined = " ".join(known)
    pieces, run = list[str](), list[str]()
    for word in WORD.findall(text):
        stem = "" if _is_korean_function_word(word) else _shared_beginning(word, known)
        longer = " ".join([*run, stem])
        if not stem:
            run = []
        elif run and longer in joined:
            pieces[-1] = longer
            run.append(word)
        else:
            pieces.append(stem)
            run = [word]
    return pieces


def _shared_beginning(word: str, known: Sequence[str]) -> str:
    """Return the longest beginning, of at least two syllables, that a word shares with any of ``known``."""
    longest = max(known, key=lambda one: _equal_letters(word, one), default="")
    size = _equal_letters(word, longest)
    if size < LEAST:
        return ""
    rest = {word[size:], longest[size:]}
    is_stem = "" not in rest or rest & set(_korean_particles())
    return word[:size] if is_stem else _without_particle(word[:size])


def _equal_letters(one: str, other: str) -> int:
    """Return how many letters two words have in common at their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _without_particle(word: str, least: int = LEAST) -> str:
    """Return a Korean word without one particle, of those that may follow its last sound."""
    table = _table("ko")
    for particle in _korean_particles():
        stem = word.removesuffix(particle)
        if stem == word or len(stem) < least:
            continue
        fits = table["after_consonant"] if _ends_in_consonant(stem) else table["after_vowel"]
        if particle in table["particles"] or particle in fits:
            return stem
    return word


@lru_cache(maxsize=1)
def _korean_particles() -> tuple[str, ...]:
    table = _table("ko")
    return tuple(sorted([*table["particles"], *table["after_consonant"], *table["after_vowel"]], key=len, reverse=True))


def _is_korean_function_word(word: str) -> bool:
    return bool({word, _without_particle(word, least=1)} & set(_table("ko")["words"]))


def _ends_in_consonant(word: str) -> bool:
    """Return whether the last Hangul syllable has a final consonant (Unicode 3.12: syllables in steps of 28)."""
    place = ord(word[-1]) - 0xAC00
    return 0 <= place < 11172 and place % 28 != 0


def _trimmed(part: str, language: str) -> str:
    """Return a Chinese or Japanese piece without function words at its ends."""
    table = _table(language)
    ends = "|".join(sorted(map(re.escape, table["words"]), key=len, reverse=True))
    begin, end = rf"^(?:{ends})", rf"(?:{ends})$"
    if language == "ja":
        particles = _particles()
        begin = rf"{begin}|^(?:{particles})+(?![{HIRAGANA}])"
        end = rf"{end}|(?:^|(?<![{HIRAGANA}]))(?:{particles})+$|(?:{'|'.join(table['always'])})$"
    while part and (shorter := re.sub(end, "", re.sub(begin, "", part))) != part:
        part = shorter
    return part


@lru_cache(maxsize=1)
def _between_particles() -> re.Pattern[str]:
    """Particles between two letters of another script, except の, which joins the parts of a name."""
    return re.compile(rf"(?<=[^{HIRAGANA}])(?!の(?![{HIRAGANA}]))(?:{_particles()})+(?=[^{HIRAGANA}])")


@lru_cache(maxsize=1)
def _particles() -> str:
    return "|".join(sorted(map(re.escape, _table("ja")["particles"]), key=len, reverse=True))


def _is_content(text: str, at: int) -> bool:
    """Return whether a letter belongs to a word or a number, as a point between digits does."""
    inside = 0 < at < len(text) - 1 and text[at - 1].isdigit() and text[at + 1].isdigit()
    return inside or unicodedata.category(text[at])[0] not in "PSZ"


@lru_cache(maxsize=8)
def _table(language: str) -> dict[str, Any]:
    table: dict[str, Any] = parse(files(__package__).joinpath("function_words.yaml").read_text("utf-8")).value[language]
    return table
