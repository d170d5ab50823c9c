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
    """1 where the last number of the completion is the first of the solution, else 0."""
    return [float(_same(last_number(text), _first(wanted))) for text, wanted in zip(completions, solution, strict=True)]


def qwen_accuracy_reward(completions: list[str], solution: list[str]) -> list[float]:
    """1 where the last boxed number is the solution; without a box the whole text must be it."""
    return [float(_boxed(text, str(wanted))) for text, wanted in zip(completions, solution, strict=True)]


def format_reward(completions: list[str]) -> list[float]:
    """1 for a think block and then an answer block that cover the completion, once each, else 0."""
    return [float(has_format(text, "think", "answer", False)) for text in completions]


def kk_reward(prompts: list[str], completions: list[str], solution: list[str]) -> list[float]:
    """Knights and knaves: +-1 for the format, and +2 all roles right, -1.5 wrong ones, -2 none to be read."""
    return [_knights(*row) for row in zip(prompts, completions, solution, strict=True)]


def _first(text: str) -> Decimal | None:
    found = NUMBER.search(str(text))
    return last_number(found.group()) if found else None


def _same(found: Decimal | None, wanted: Decimal | None) -> bool:
    return found is not None and found == wanted


def _boxed(completion: str, wanted: str) -> bool:
    boxes = BOX.findall(completion)
    if boxes:
        return _same(last_number(boxes[-1]), last_number(wanted))
    return completion.strip() == wanted.strip()


def _knights(prompt: str, completion: str, solution: str) -> float:
    opened = prompt.rstrip().endswith("<think>") and not completion.lstrip().startswith("<think>")
    if not has_format(completion, "think", "answer", opened):
        return -1.0 + UNREADABLE
    wanted = {name: role.lower() for name, role in ROLE.findall(solution)}
    answer = completion.rpartition("<answer>")[2]
    found = {
        name: said.group(1).lower()
        for name in wanted
        if (said := re.search(rf"\b{re.escape(name)}\s+is\s+an?\s+(knight|knave)\b", answer, re.IGNORECASE))
    }
    if len(found) != len(wanted) or len(re.findall("knight|knave", answer, re.IGNORECASE)) != len(wanted):
        return 1.0 + UNREADABLE
    return 1.0 + (FULL if found == wanted else MISMATCH)
