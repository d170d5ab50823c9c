"""MindRLHF's verifiers. Numbers are compared as numbers, however they are written: "2" is "2.0", and in bold too.

A thought that the prompt opens counts as if the completion had opened it.
"""

from __future__ import annotations

import re
from decimal import Decimal

from ...chat.thoughts import with_opened_thought
from ...rewards.builtin.format import has_format
from ...rewards.builtin.numeric_match import first_number, last_number
from ...rewards.builtin.written_answers import without_markup

BOX = re.compile(r"(?:boxed|fbox)\s{0,9}\{([^{}]{1,99})\}")
BOXED_NUMBER = re.compile(r"\s*[-+]?(?:[\d,]*\.?\d+|\d+/\d+)\s*")
NAME = re.compile(r"\b[A-Za-z]+\b")
ROLE = re.compile(r"\b(?:knight|knave)\b", re.IGNORECASE)
FULL, MISMATCH, UNREADABLE = 2.0, -1.5, -2.0


def accuracy_reward(completions: list[str], solution: list[str]) -> list[float]:
    """Return 1 where the last number of the completion is the first of the solution, else 0."""
    rows = zip(completions, solution, strict=True)
    return [float(_same(last_number(without_markup(text)), first_number(str(gold)))) for text, gold in rows]


def qwen_accuracy_reward(completions: list[str], solution: list[str]) -> list[float]:
    """Return 1 where the last boxed number is the solution; without a box the whole text must be it."""
    return [float(_boxed(text, str(gold))) for text, gold in zip(completions, solution, strict=True)]


def format_reward(completions: list[str], prompts: list[str] | None = None) -> list[float]:
    """Return 1 for a think block and then an answer block that cover the completion, once each, else 0."""
    rows = zip(prompts or [""] * len(completions), completions, strict=True)
    return [float(has_format(with_opened_thought(*row), "think", "answer", False)) for row in rows]


def kk_reward(prompts: list[str], completions: list[str], solution: list[str]) -> list[float]:
    """Score knights-and-knaves answers: ±1 for the format, plus +2 if all roles are right, -1.5 if not, -2 if unreadable."""
    return [_knights(*row) for row in zip(prompts, completions, solution, strict=True)]


def _same(number: Decimal | None, gold: Decimal | None) -> bool:
    return number is not None and number == gold


def _boxed(completion: str, gold: str) -> bool:
    boxes = [box for box in BOX.findall(without_markup(completion)) if BOXED_NUMBER.fullmatch(box)]
    if boxes:
        return _same(last_number(boxes[-1]), last_number(gold))
    return completion.strip() == gold.strip()


def _roles(solution: str) -> dict[str, str]:
    """Return name -> role: in each line, the first word since the last role, and the next role."""
    roles = {}
    for line in solution.splitlines():
        start = 0
        for role in ROLE.finditer(line):
            name = NAME.search(line, start, role.start())
            if name:
                roles[name[0]] = role[0].lower()
            start = role.end()
    return roles


def _knights(prompt: str, completion: str, solution: str) -> float:
    if not has_format(with_opened_thought(prompt, completion), "think", "answer", False):
        return -1.0 + UNREADABLE
    roles = _roles(solution)
    answer = completion.rpartition("<answer>")[2]
    answered = {
        name: match.group(1).lower()
        for name in roles
        if (
            match := re.search(
                rf"\b{re.escape(name)}\s{{1,9}}is\s{{1,9}}an?\s{{1,9}}(knight|knave)\b", answer, re.IGNORECASE
            )
        )
    }
    if len(answered) != len(roles) or len(re.findall("knight|knave", answer, re.IGNORECASE)) != len(roles):
        return 1.0 + UNREADABLE
    return 1.0 + (FULL if answered == roles else MISMATCH)
