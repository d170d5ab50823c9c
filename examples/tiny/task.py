"""Sorting digits: the answer to ``41203=`` is ``01234``.

A problem is a multiset of digits. All multisets are put in one seeded order; neither the supervised warm-up nor GRPO
trains on any arrangement of those held out.
"""

from __future__ import annotations

import itertools
import random

DIGITS = 5
HELD_OUT = 300


def multisets() -> tuple[list[str], list[str]]:
    """Return sorted digit strings for training and held out: disjoint, the same on every machine."""
    every = ["".join(digits) for digits in itertools.combinations_with_replacement("0123456789", DIGITS)]
    random.Random(2).shuffle(every)
    return every[HELD_OUT:], every[:HELD_OUT]


def train(rows: int = 20000, seed: int = 0) -> list[dict[str, str]]:
    """Draw training rows: arrangements of training multisets, by a seed."""
    draw = random.Random(seed)
    answers, _ = multisets()
    return [row(draw.choice(answers), draw) for _ in range(rows)]


def held_out() -> list[dict[str, str]]:
    """Draw one arrangement of each held-out multiset."""
    draw = random.Random(3)
    return [row(answer, draw) for answer in multisets()[1]]


def row(answer: str, draw: random.Random) -> dict[str, str]:
    """Make one row: the digits in a drawn order, and sorted."""
    digits = list(answer)
    draw.shuffle(digits)
    return {"prompt": "".join(digits) + "=", "answer": answer}
