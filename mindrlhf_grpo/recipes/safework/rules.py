"""Rule rewards: format, right answers, one language; exactly as defined for training with thoughts."""

from __future__ import annotations

import re
from typing import Any

from ...errors import DataError
from ...rewards.builtin.answers import first_box, last_box
from ...rewards.builtin.constraints import meets, read_constraints
from ...rewards.builtin.language import HAN
from ...rewards.builtin.math_accuracy import same_value

LATIN_WORD = re.compile(r"[A-Za-z]+")


def format_reward(solution: str) -> float:
    """Return 1 for a thought that is not empty with text after it, whatever comes before; else 0."""
    start = solution.find("<think>")
    end = solution.find("</think>", start + len("<think>") + 1)
    return float(start >= 0 and end >= 0 and bool(solution[end + len("</think>") :].strip()))


def rule_reward(solution: str, reference: Any) -> float:
    """Return 1 if the last box after the last thought holds the reference or its mathematical equal, else 0."""
    return matches(last_box(solution.rpartition("</think>")[2]), reference)


def combined_rule(solution: str, reference: Any) -> float:
    """Return 0.9 for the right answer plus 0.1 for a thought that ends before the first box (gsm8k, geo3k)."""
    end, box = solution.find("</think>"), first_box(solution)
    ordered = 0 <= solution.find("<think>") < end < box
    return 0.9 * matches(last_box(solution), reference) + 0.1 * ordered


def constraint_rule(answer: str, reference: Any) -> float:
    """Return the share of the reference's constraints that the answer meets, see ``rewards/builtin/constraints.py``."""
    met = meets(answer, read_constraints(reference))
    return sum(met) / len(met)


def language_rule(question: str, thought: str, answer: str, solution: str) -> float:
    """Return the format reward if question, thought and answer are in one language, else 0."""
    return format_reward(solution) * (len({is_chinese(part) for part in (question, thought, answer) if part}) <= 1)


def is_chinese(text: str) -> bool:
    """Return whether a text has more Chinese characters than words in Latin letters."""
    chinese = sum(len(run) for run in HAN.findall(text))
    return chinese > len(LATIN_WORD.findall(text))


def matches(answer: str | None, reference: Any) -> float:
    """Return 1 if an answer equals the reference, as text or as mathematics, else 0; raises DataError without a reference."""
    if reference is None or not str(reference).strip():
        raise DataError("a rule needs a reference answer")
    if answer is None:
        return 0.0
    gold = str(reference).strip()
    if answer == gold:
        return 1.0
    try:
        return float(same_value(answer, gold))
    except ValueError:  # the reference is a text, which is compared as such
        return 0.0
