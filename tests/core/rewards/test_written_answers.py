"""Right answers count however a model writes them, and wrong ones never do: a table of written answers.

Each row of ``written_answers.jsonl`` has a completion in the form of GSM8K, MATH, AIME, multiple choice or a mixture, the
reference, and 1 or 0.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.rewards.builtin.math_accuracy import math_accuracy, prepare
from mindrlhf_grpo.rewards.builtin.written_answers import (
    boxed_answers,
    choice_label,
    chosen_letter,
    stated_answer,
    without_markup,
)

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("written_answers.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['form']}-{number}" for number, row in enumerate(ROWS)])
def test_a_written_answer_has_its_value(row: dict[str, Any]):
    assert math_accuracy([""], [row["completion"]], [[]], answer=[row["reference"]]) == [row["right"]]


def test_the_table_has_every_form_with_right_and_wrong_answers():
    counts = Counter((row["form"], row["right"]) for row in ROWS)
    assert len(ROWS) >= 200
    assert all(counts[form, right] >= 5 for form in ("gsm8k", "math", "aime", "choice") for right in (0, 1))


def test_the_table_is_scored_at_once():
    prepare()
    start = time.process_time()
    completions, gold = [row["completion"] for row in ROWS], [row["reference"] for row in ROWS]
    values = math_accuracy([""] * len(ROWS), completions, [[]] * len(ROWS), answer=gold)
    seconds = time.process_time() - start
    print(f"{len(ROWS)} written answers in {seconds:.2f} s")
    assert values == [row["right"] for row in ROWS]
    assert seconds < 30  # about 2


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("**42**.", "42."),
        ("2**3 and 6*7*8", "2**3 and 6*7*8"),
        ("*42*", "42"),
        (r"\$5 or $5", "5 or 5"),
        ("$5$ or $x$", "$5$ or $x$"),
        ("$18 every day and $5", "18 every day and 5"),
        (r"100\,000 and 1{,}000 and 1 234 567", "100000 and 1000 and 1234567"),
        ("2½ or ⅔ or √2 or √(x+1)", r"5/2 or 2/3 or \sqrt{2} or \sqrt{x+1}"),
    ],
)
def test_markup_prices_and_thousands_are_removed(text: str, plain: str):
    assert without_markup(text) == plain


def test_boxes_joined_by_words_are_also_one_answer():
    assert boxed_answers(r"\boxed{3} and $\boxed{4}$") == ["4", "3, 4"]
    assert boxed_answers(r"\boxed{3} no \boxed{4}") == ["4"]
    assert boxed_answers(r"\boxed{3}, \boxed{4}, and \boxed{5}") == ["5", "3, 4, 5"]
    assert boxed_answers("none") == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42. That took 3 steps.", "42"),
        ("The answer is that he has 7 apples", "7"),
        ("The answers are 3, 4 and 5.", "3, 4, 5"),
        ("The answer is not 7.", None),
        ("The answer is 5. Wait, it is 6.", "6"),
        ("a = 3, so the area is 9", "9"),
        ("nothing", None),
    ],
)
def test_the_stated_answer(text: str, answer: str | None):
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("(b)", "B"), ("The answer is C) 12", "C"), ("A or B", None), ("A cat", None), (r"\boxed{D. 5}", "D")],
)
def test_the_chosen_letter(text: str, letter: str | None):
    assert chosen_letter(text) == letter


def test_a_reference_may_be_a_letter_with_or_without_its_text():
    assert choice_label("B") == choice_label("(B)") == choice_label(r"\text{(B)}") == ("B", "")
    assert choice_label(r"\textbf{(B)} 12") == ("B", "12")
    assert choice_label("Bx") is choice_label("12") is choice_label("K") is None
