"""Sorting digits: ``41203=`` is to be answered with ``01234``.

A problem is a multiset of digits. All multisets are put in one seeded order; those held out are never trained on in
any arrangement, neither by the supervised warm-up nor by GRPO.
"""

from __future__ import annotations

import itertools
import random

DIGITS = 5
HELD_OUT = 300


def multisets() -> tuple[list[str], list[str]]:
    """Sorted digit strings for training and held out: disjoint, the same on every machine."""
    every = ["".join(digits) for digits in itertools.combinations_with_replacement("0123456789", DIGITS)]
    random.Random(2).shuffle(every)
    return every[HELD_OUT:], every[:HELD_OUT]


def train(rows: int = 20000, seed: int = 0) -> list[dict[str, str]]:
    """Training rows: arrangements of training multisets, drawn with a seed."""
    draw = random.Random(seed)
    answers, _ = multisets()
    return [row(draw.choice(answers), draw) for _ in range(rows)]


def held_out() -> list[dict[str, str]]:
    """One arrangement of each held-out multiset."""
    draw = random.Random(3)
    return [row(answer, draw) for answer in multisets()[1]]


def row(answer: str, draw: random.Random) -> dict[str, str]:
    """One data row: the digits in a drawn order, and sorted."""
    digits = list(answer)
    draw.shuffle(digits)
    return {"prompt": "".join(digits) + "=", "answer": answer}
