"""Replies of a chat model that was asked for one thing, a line or a word: what of them can be used.

Models begin with reasoning, put quotes around what they were asked for, or add a second line; these are cut away by
rule. What then cannot be used is None: nothing is made up in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...chat.thoughts import without_thoughts
from ...rewards.builtin.language import share_of

QUOTES = " \t\"'`*“”‘’「」『』«»"
REASONING = re.compile(
    r"(okay|ok|alright|let me|let's|the user|first,|i need|we need|so,|hmm|sure|here is|here's)\b", re.IGNORECASE
)


def usable_line(reply: str, language: str, *, fits: Callable[[str], bool], single: bool = False) -> str | None:
    """The reply as one line, without thoughts, quotes and English reasoning; None where nothing is left.

    A reply that begins with reasoning (or, with ``single``, has several lines) gives its first line that fits.

    Args:
        language: a reply in another language (zh, ja, en, ko) whose first line is English has begun with reasoning.
    """
    lines = [line.strip(QUOTES) for line in without_thoughts(reply).splitlines() if line.strip(QUOTES)]
    if not lines:
        return None
    foreign = language != "en" and (share_of(lines[0], "en") or 0.0) > 0.5
    if foreign or REASONING.match(lines[0]) or (single and len(lines) > 1):
        lines = [line for line in lines if fits(line)][:1]
    return " ".join(lines) or None


def yes_or_no(reply: str, *, yes: Callable[[str], bool], no: Callable[[str], bool]) -> bool | None:
    """What a reply says to a question of yes or no; None if neither or both."""
    said = without_thoughts(reply).strip(QUOTES)
    agrees, denies = yes(said), no(said)
    return agrees if agrees != denies else None
