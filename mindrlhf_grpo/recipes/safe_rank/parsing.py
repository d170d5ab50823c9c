"""The list of films in a completion, each with its place in the text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .titles import MARKUP

SOLUTION = re.compile(r"<solution>(.*?)(?:</solution>|\Z)", re.DOTALL)
YEAR = re.compile(r"[(\[]\s*(\d{4})\s*[)\]]")
NUMBERING = re.compile(r"^\d{1,3}[.)](?!\d)\s*")


@dataclass(frozen=True, slots=True)
class Item:
    """One recommendation; ``text[start:end]`` are its line and the blank lines after it."""

    title: str
    year: int
    start: int
    end: int


def parse(text: str) -> list[Item]:
    """Return the items of a list, one per line, ``Title (YYYY)``; a line without a year in brackets is not an item.

    Numbering, bullets, markup and quotes are dropped. Of several ``<solution>`` blocks only the last one counts.
    """
    blocks = list(SOLUTION.finditer(text))
    place, stop = blocks[-1].span(1) if blocks else (0, len(text))
    items: list[Item] = []
    attached = False  # whether the line before belongs to an item
    while place < stop:
        newline = text.find("\n", place, stop)
        after = stop if newline < 0 else newline + 1
        line = text[place:after]
        film = read_line(line)
        if film is not None:
            items.append(Item(*film, place, after))
        elif attached and not line.strip():
            items[-1] = Item(items[-1].title, items[-1].year, items[-1].start, after)
        attached = film is not None or (attached and not line.strip())
        place = after
    return items


def read_line(line: str) -> tuple[str, int] | None:
    """Return title and year of a line; None where it is not an item."""
    year = next(iter(YEAR.finditer(line)), None)
    if year is None:
        return None
    title = NUMBERING.sub("", line[: year.start()].strip(MARKUP)).strip(MARKUP)
    if title.startswith("(") and title.endswith(")"):
        title = title[1:-1].strip(MARKUP)
    title = " ".join(title.split())
    return (title, int(year[1])) if title else None


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a completion, which may be given as messages."""
    return completion if isinstance(completion, str) else "".join(str(part.get("content", "")) for part in completion)
