"""Rule rewards: format, right answers, one language; exactly as defined for training with thoughts."""

from __future__ import annotations

import re
from typing import Any

from ...errors import DataError
from ...rewards.builtin.answers import BOX, last_box
from ...rewards.builtin.constraints import meets, read_constraints
from ...rewards.builtin.language import HAN
from ...rewards.builtin.math_accuracy import math_accuracy

LATIN_WORD = re.compile(r"[A-Za-z]+")


def format_reward(solution: str) -> float:
    """1 for a thought that is not empty and something after it; whatever comes before. Else 0."""
    start = solution.find("<think>")
    end = solution.find("</think>", start + len("<think>") + 1)
    return float(start >= 0 and end >= 0 and bool(solution[end + len("</think>") :].strip()))


def rule_reward(solution: str, reference: Any) -> float:
    """1 if the last box after the last thought holds the reference or its mathematical equal, else 0."""
    return matches(last_box(solution.rpartition("</think>")[2]), reference)


def combined_rule(solution: str, reference: Any) -> float:
    """0.9 for the right answer, 0.1 for a thought that ends before the first box (gsm8k, geo3k)."""
    end, box = solution.find("</think>"), solution.find(BOX)
    ordered = 0 <= solution.find("<think>") < end < box
    return 0.9 * matches(last_box(solution), reference) + 0.1 * ordered


def constraint_rule(answer: str, reference: Any) -> float:
    """Share of the reference's constraints that the answer meets, see ``rewards/constraints.py``."""
    met = meets(answer, read_constraints(reference))
    return sum(met) / len(met)


def language_rule(question: str, thought: str, answer: str, solution: str) -> float:
    """The format reward, if question, thought and answer are in one language."""
    return format_reward(solution) * (len({is_chinese(part) for part in (question, thought, answer) if part}) <= 1)


def is_chinese(text: str) -> bool:
    """Whether more than half of its units are Chinese characters; the others are words in Latin letters."""
    chinese = sum(len(run) for run in HAN.findall(text))
    return chinese > len(LATIN_WORD.findall(text))


def matches(answer: str | None, reference: Any) -> float:
    """1 if an answer is the reference, letter by letter or as mathematics, else 0; raises DataError without one."""
    if reference is None or not str(reference).strip():
        raise DataError("a rule needs a reference answer")
    if answer is None:
        return 0.0
    wanted = str(reference).strip()
    if answer == wanted:
        return 1.0
    (found,) = math_accuracy([""], [f"{BOX}{answer}}}"], [[]], answer=[wanted])
    return found if isinstance(found, float) else 0.0
