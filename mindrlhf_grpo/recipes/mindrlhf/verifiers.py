"""MindRLHF's verifiers. Numbers are compared as numbers: "2" is "2.0"."""

from __future__ import annotations

import re
from decimal import Decimal

from ...rewards.builtin.format import has_format
from ...rewards.builtin.numeric_match import NUMBER, last_number

BOX = re.compile(r"boxed\s*\{\s*([-+]?[\d,]*\.?\d+)\s*\}")
ROLE = re.compile(r"\b([A-Za-z]+)\b[^\n]*?\b(knight|knave)\b", re.IGNORECASE)
FULL, MISMATCH, UNREADABLE = 2.0, -1.5, -2.0


def accuracy_reward(completions: list[str], solution: list[str]) -> list[float]:
    """Return 1 where the last number of the completion is the first of the solution, else 0."""
    return [float(_same(last_number(text), _first(gold))) for text, gold in zip(completions, solution, strict=True)]


def qwen_accuracy_reward(completions: list[str], solution: list[str]) -> list[float]:
    """Return 1 where the last boxed number is the solution; without a box the whole text must be it."""
    return [float(_boxed(text, str(gold))) for text, gold in zip(completions, solution, strict=True)]


def format_reward(completions: list[str]) -> list[float]:
    """Return 1 for a think block and then an answer block that cover the completion, once each, else 0."""
    return [float(has_format(text, "think", "answer", False)) for text in completions]


def kk_reward(prompts: list[str], completions: list[str], solution: list[str]) -> list[float]:
    """Score knights-and-knaves answers: ±1 for the format, plus +2 if all roles are right, -1.5 if not, -2 if unreadable."""
    return [_knights(*row) for row in zip(prompts, completions, solution, strict=True)]


def _first(text: str) -> Decimal | None:
    match = NUMBER.search(str(text))
    return last_number(match.group()) if match else None


def _same(number: Decimal | None, gold: Decimal | None) -> bool:
    return number is not None and number == gold


def _boxed(completion: str, gold: str) -> bool:
    boxes = BOX.findall(completion)
    if boxes:
        return _same(last_number(boxes[-1]), last_number(gold))
    return completion.strip() == gold.strip()


def _knights(prompt: str, completion: str, solution: str) -> float:
    opened = prompt.rstrip().endswith("<think>") and not completion.lstrip().startswith("<think>")
    if not has_format(completion, "think", "answer", opened):
        return -1.0 + UNREADABLE
    roles = {name: role.lower() for name, role in ROLE.findall(solution)}
    answer = completion.rpartition("<answer>")[2]
    answered = {
        name: match.group(1).lower()
        for name in roles
        if (match := re.search(rf"\b{re.escape(name)}\s+is\s+an?\s+(knight|knave)\b", answer, re.IGNORECASE))
    }
    if len(answered) != len(roles) or len(re.findall("knight|knave", answer, re.IGNORECASE)) != len(roles):
        return 1.0 + UNREADABLE
    return 1.0 + (FULL if answered == roles else MISMATCH)
