"""Film titles for comparison: one form to compare lists with, one to look films up in the oracle."""

from __future__ import annotations

import re
from typing import Any

ARTICLES = ("the ", "a ", "an ")
MARKUP = " \t\r\n*_#\"'“”‘’`-–—•,:;"  # markup, quotes and bullets that may stand around a title


def fold(title: str) -> str:
    """Return a title for exact comparison: without case, extra spaces and surrounding markup."""
    return " ".join(str(title).split()).casefold().strip(MARKUP)


def normalise(title: str) -> str:
    """Return a title for the oracle: lower case, no leading article or punctuation, single spaces."""
    lowered = " ".join(str(title).casefold().split())
    article = next((article for article in ARTICLES if lowered.startswith(article)), "")
    return " ".join(re.sub(r"[^\w\s]|_", "", lowered.removeprefix(article)).split())


def lookup_key(title: str) -> str:
    """Return the normalised title without spaces, so that maps that put a space for each punctuation mark match too."""
    return normalise(re.sub(r"[^\w\s]|_", " ", str(title))).replace(" ", "")


def year_of(value: Any) -> int | None:
    """Return a year given as number or text; None where it is neither."""
    text = str(value).strip().removesuffix(".0")
    return int(text) if re.fullmatch(r"\d{1,4}", text) else None
