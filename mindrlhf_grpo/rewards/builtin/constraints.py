"""Instruction following that a program can check: a row lists constraints, and the reward is the share that is met.

A constraint is ``{kind: KIND, value: VALUE}``; ``KINDS`` lists the kinds with their values. Only the answer after the
last thought is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ...chat.thoughts import without_thoughts
from ...errors import DataError, did_you_mean
from .language import language_of

SENTENCE_END = re.compile(r"[.!?。！？]")
LETTER = re.compile(r"\w")
WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+(?:['’-][^\W_\u3400-\u9fff]+)*")
BULLET = re.compile(r"^[^\S\n]*(?:[-*•]|\d+[.)、])\s+\S", re.MULTILINE)


def words(text: str) -> int:
    """Count words; each Chinese character is one."""
    return len(WORD.findall(text))


def paragraphs(text: str) -> int:
    """Count the blocks between empty lines."""
    return len([part for part in re.split(r"\n\s*\n", text) if part.strip()])


def sentences(text: str) -> int:
    """Count the parts between full stops, question and exclamation marks that have a letter or digit."""
    return sum(LETTER.search(part) is not None for part in SENTENCE_END.split(text))


def is_json(text: str) -> bool:
    """Return whether the text, apart from a code fence, is a JSON object or list."""
    text = text.strip()
    text = text.removeprefix("```json" if text.startswith("```json") else "```").removesuffix("```")
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def listed(value: Any) -> list[str]:
    """Return one text or several as a list."""
    return [value] if isinstance(value, str) else [str(one) for one in value]


KINDS: Mapping[str, Callable[[str, Any], bool]] = {
    "include": lambda text, value: all(part.casefold() in text.casefold() for part in listed(value)),  # texts
    "exclude": lambda text, value: not any(part.casefold() in text.casefold() for part in listed(value)),
    "starts_with": lambda text, value: text.startswith(tuple(listed(value))),
    "ends_with": lambda text, value: text.endswith(tuple(listed(value))),
    "min_words": lambda text, value: words(text) >= int(value),  # numbers
    "max_words": lambda text, value: words(text) <= int(value),
    "min_sentences": lambda text, value: sentences(text) >= int(value),
    "max_sentences": lambda text, value: sentences(text) <= int(value),
    "paragraphs": lambda text, value: paragraphs(text) == int(value),
    "bullets": lambda text, value: len(BULLET.findall(text)) == int(value),
    "language": lambda text, value: language_of(text) == value,  # zh, ja, en or ko
    "case": lambda text, value: text == {"upper": text.upper(), "lower": text.lower()}[value],  # upper or lower
    "format": lambda text, value: {"json": is_json, "table": is_table, "title": is_titled}[value](text),
}


def is_table(text: str) -> bool:
    """Return whether the text has a Markdown table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [len(line) > 2 and line[0] == line[-1] == "|" for line in lines]
    rules = [row and not line.strip(" \t:|-") for row, line in zip(rows, lines, strict=True)]
    return any(row and rule for row, rule in zip(rows, rules[1:], strict=False))


def is_titled(text: str) -> bool:
    """Return whether the text begins with a Markdown heading."""
    return re.match(r"#{1,6} \S", text) is not None


def constraints(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    constraints: list[Any],
    *,
    score: Literal["share", "all"] = "share",
) -> list[float | Exception | None]:
    """Return the share of a row's constraints that its answer meets; not applicable to a row without constraints.

    Args:
        constraints: one per completion: a list of ``{kind, value}``, or the same as JSON text.
        score: ``all``: 1 if every one is met, else 0.
    """

    def share_met(prompt: str, completion: str, asked: Any) -> float | Exception | None:
        if asked is None:
            return None
        try:
            met = meets(without_thoughts(completion, prompt), read_constraints(asked))
        except DataError as error:
            return error
        return float(all(met)) if score == "all" else sum(met) / len(met)

    return [share_met(*row) for row in zip(prompts, completions, constraints, strict=True)]


def read_constraints(value: Any) -> list[Mapping[str, Any]]:
    """Return a row's constraints, checked; raises DataError for anything else."""
    try:
        asked = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError(f"constraints are no JSON: {value[:80]!r}") from error
    asked = [asked] if isinstance(asked, Mapping) else asked
    if not isinstance(asked, Sequence) or not asked:
        raise DataError(f"constraints must be a list of {{kind, value}}, not {value!r:.80}")
    for one in asked:
        kind = one.get("kind") if isinstance(one, Mapping) else None
        if kind not in KINDS:
            hint = did_you_mean(str(kind), KINDS)
            raise DataError(f"constraint {one!r:.80}: unknown kind{hint}; there are {', '.join(KINDS)}")
    return list(asked)


def meets(text: str, asked: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return for each constraint whether the text meets it; raises DataError for a value that its kind does not accept."""
    try:
        return [KINDS[one["kind"]](text, one["value"]) for one in asked]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"a constraint has a wrong value: {error}") from error
