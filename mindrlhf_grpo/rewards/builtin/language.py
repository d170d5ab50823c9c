"""Language consistency: the share of letters in the script of the required language (by Unicode blocks).

Tags and LaTeX commands are not letters of the text. Chinese is Han; Japanese is kana, and Han beside kana; Korean is
Hangul; English stands for every language in Latin letters.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["zh", "ja", "en", "ko"]

HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
KANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]+")
HANGUL = re.compile("[\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb]+")
LATIN = re.compile("[A-Za-zªºÀ-ÖØ-öø-ʯᴀ-ᶿḀ-ỿＡ-Ｚａ-ｚ]+")
LETTERS = re.compile(r"[^\W\d_]+")
MARKUP = re.compile(r"</?[A-Za-z][\w-]{0,31}>|\\[A-Za-z]{1,32}")


def language(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    want: Literal["zh", "ja", "en", "ko", "prompt"],
) -> list[float | None]:
    """Return the share of the completion's letters in the required language, in 0..1; None without letters.

    Args:
        want: a language, or ``prompt`` for the language of most letters of the prompt.
    """
    required = [language_of(prompt) if want == "prompt" else want for prompt in prompts]
    return [share_of(completion, name) for completion, name in zip(completions, required, strict=True)]


def language_of(text: str) -> Language | None:
    """Return the language of most letters; None without letters in a known script."""
    counts = letters_by_language(text)[1]
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None


def letters_by_language(text: str) -> tuple[int, dict[Language, int]]:
    """Count all letters, and those of each language; Han counts for Chinese, and for Japanese if there is kana."""
    text = MARKUP.sub(" ", text)
    han, kana, hangul, latin, letters = (_count(kind, text) for kind in (HAN, KANA, HANGUL, LATIN, LETTERS))
    return letters, {"ja": han + kana if kana else 0, "zh": han, "ko": hangul, "en": latin}


def share_of(text: str, name: str | None) -> float | None:
    """Return the share of a text's letters in a language; None without letters or without a language."""
    letters, counts = letters_by_language(text)
    shares = {str(key): min(count / letters, 1.0) for key, count in counts.items()} if letters else {}
    return shares.get(name) if name else None


def _count(kind: re.Pattern[str], text: str) -> int:
    return sum(len(run) for run in kind.findall(text))
