"""Addition of two numbers, with held-out problems that training never sees in either order.

A problem is an unordered pair of operands. All pairs are put in one seeded order; the first ``HELD_OUT`` are the
held-out problems, the rest are for training. So ``3+8`` and ``8+3`` are always on the same side.
"""

from __future__ import annotations

import random

LARGEST = 30  # operands are 0..LARGEST
HELD_OUT = 200
SHOWN = ((2, 5), (13, 14))  # in every prompt, so neither trained on nor held out
WORDING = "2+5=7\n14+13=27\n{a}+{b}="  # the two examples show the form; the end of the line ends the answer


def pairs(largest: int = LARGEST, size: int = HELD_OUT) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return operand pairs ``(a, b)`` with a <= b for training and held out, the same on every machine."""
    every = [(a, b) for a in range(largest + 1) for b in range(a, largest + 1) if (a, b) not in SHOWN]
    if size >= len(every):
        raise ValueError(f"{size} held-out pairs leave nothing to train on: {len(every)} pairs up to {largest}")
    random.Random(2).shuffle(every)
    return every[size:], every[:size]


def train(largest: int = LARGEST, size: int = HELD_OUT) -> list[dict[str, str]]:
    """Return training rows: each training pair in both orders."""
    pairs_to_train, _ = pairs(largest, size)
    return [row(*operands) for a, b in pairs_to_train for operands in sorted({(a, b), (b, a)})]


def held_out(largest: int = LARGEST, size: int = HELD_OUT) -> list[dict[str, str]]:
    """Return held-out rows: each held-out pair once, in a drawn order of its operands."""
    _, pairs_held_out = pairs(largest, size)
    draw = random.Random(3)
    return [row(a, b) if draw.random() < 0.5 else row(b, a) for a, b in pairs_held_out]


def row(a: int, b: int) -> dict[str, str]:
    """Make one row: the prompt and the answer that the reward compares with."""
    return {"prompt": WORDING.format(a=a, b=b), "answer": str(a + b)}
