"""The usable part of a chat model's reply to a request for one line or one word.

Models begin with reasoning, put quotes around their answer, or add a second line; rules cut these away. A reply with
nothing usable left is None: nothing is made up in its place.
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
    """Return a reply as one line, without thoughts, quotes and English reasoning; None where nothing is left.

    Of a reply that begins with reasoning (or, with ``single``, has several lines) the first line that fits is taken.

    Args:
        language: language of the answer (zh, ja, en, ko); for others than English, a first line in English is reasoning.
    """
    lines = [line.strip(QUOTES) for line in without_thoughts(reply).splitlines() if line.strip(QUOTES)]
    if not lines:
        return None
    foreign = language != "en" and (share_of(lines[0], "en") or 0.0) > 0.5
    if foreign or REASONING.match(lines[0]) or (single and len(lines) > 1):
        lines = [line for line in lines if fits(line)][:1]
    return " ".join(lines) or None


def yes_or_no(reply: str, *, yes: Callable[[str], bool], no: Callable[[str], bool]) -> bool | None:
    """Return the answer to a yes-or-no question; None if the reply is neither or both."""
    answer = without_thoughts(reply).strip(QUOTES)
    agrees, denies = yes(answer), no(answer)
    return agrees if agrees != denies else None
