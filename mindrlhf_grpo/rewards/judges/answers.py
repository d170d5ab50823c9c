"""Reads a score from a judge's answer, by a table of verdicts or as a number; unreadable answers are None, never a guess."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from ...errors import ConfigError

Reader: TypeAlias = Callable[[str], float | None]
Match: TypeAlias = Literal["anywhere", "start"]

NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
AROUND = " \t\r\n.,;:!?\"'`*()[]<>。，；：！？“”‘’「」"  # characters that may surround a verdict


def verdict_reader(verdicts: Mapping[str, float], match: Match = "anywhere") -> Reader:
    """Return a reader that finds a verdict in a text, ignoring case: the full text, else the verdict that comes first.

    Where two verdicts begin at the same place, the longer one counts. ``match="start"``: it must begin the text.

    Raises:
        ConfigError: no verdict, an empty one, or two that differ only in case.
    """
    table = {verdict.strip().casefold(): float(score) for verdict, score in verdicts.items()}
    if not table or "" in table or len(table) != len(verdicts):
        raise ConfigError(f"verdicts must be different texts with their scores, not {dict(verdicts)!r}")

    def read(text: str) -> float | None:
        answer = text.strip(AROUND).casefold()
        if answer in table:
            return table[answer]
        candidates = [(answer.find(verdict), -len(verdict), verdict) for verdict in table]
        places = sorted(place for place in candidates if place[0] == 0 or (place[0] > 0 and match == "anywhere"))
        return table[places[0][2]] if places else None

    return read


def number_reader(accepted: Sequence[float]) -> Reader:
    """Return a reader that rounds the first number in a text to the nearest accepted one, the smaller of two as near.

    Raises:
        ConfigError: no accepted number.
    """
    values = sorted(float(value) for value in accepted)
    if not values:
        raise ConfigError("numbers must list at least one score that a judge may give")

    def read(text: str) -> float | None:
        match = NUMBER.search(text)
        return min(values, key=lambda value: abs(value - float(match[0]))) if match else None

    return read


def judged_choice(probability: float, read: str, threshold: float) -> float:
    """Return a score from the probability of the first of a judge's choices.

    Args:
        read: ``prob``: the probability; ``hard``: 1 from ``threshold`` on, else 0; ``both``: the mean of these.
    """
    hard = float(probability >= threshold)
    return {"prob": probability, "hard": hard, "both": (probability + hard) / 2}[read]
