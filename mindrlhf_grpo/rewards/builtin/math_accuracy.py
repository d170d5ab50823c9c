"""Math accuracy: the answer of the completion equals the reference as a mathematical expression (math-verify).

math-verify limits its time with a signal, which works in the main thread only and cannot stop every computation; a
completion on which it runs out of time scores 0, with a warning by math-verify. In a worker process (``timeout`` above 0,
recommended) the process is killed instead, so math-verify's limit is off; in another thread of this process it cannot be
limited at all, which is logged once.
"""

from __future__ import annotations

import logging
import re
import threading
from functools import lru_cache
from typing import Any

from ..worker import killable
from .answers import after_marker, last_box, references
from .written_answers import (
    answer_region,
    as_latex,
    boxed_answers,
    choice_label,
    chosen_letter,
    folded,
    stated_answer,
    stated_text,
    without_markup,
)

LOG = logging.getLogger("mindrlhf_grpo.rewards")
SECONDS = 5  # math-verify's own default
ASSIGNED = re.compile(r"^\s*[A-Za-z](?:_\{?\w+\}?|\(\w\))?\s*=")
LONGEST = 2000  # characters of an answer; longer ones are compared as text


def math_accuracy(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    column: str | None = None,
    tag: str | None = None,
    **columns: list[Any],
) -> list[float | Exception | None]:
    """Return 1 where the answer in the completion equals the reference, else 0.

    The last box is the answer; without one what follows the last "answer is", "Answer:" or ``####``, else the last formula
    or number (``written_answers.py``). Boxes joined by a comma or "and" are one answer where the reference has several
    parts. Only text after the last ``</think>`` counts. A reference that is a letter of a choice is compared as such. The
    reward does not apply to a row without a reference; a row whose reference is not mathematics fails.

    Args:
        column: column of references: LaTeX, plain numbers, letters of a choice, or GSM8K solutions; default ``answer``,
            else ``solution``.
        tag: look in the last ``<tag>...</tag>`` only.
    """
    seconds = _seconds()
    answers = [answer_region(completion, tag) for completion in completions]
    pairs = zip(answers, references(columns, column), strict=True)
    return [None if reference is None else _accuracy(text, str(reference), seconds) for text, reference in pairs]


def same_value(answer: str, reference: str) -> bool:
    """Return whether an answer, as it stands in a box, equals a reference as text or as mathematics.

    Raises:
        ValueError: the reference is not mathematics.
    """
    score = _accuracy(rf"\boxed{{{answer}}}", reference, _seconds())
    if isinstance(score, Exception):
        raise score
    return score == 1.0


def prepare() -> None:
    """Import math-verify and build its grammars, about a second."""
    _accuracy("$1$", "1", _seconds())


def _accuracy(completion: str, reference: str, seconds: int | None) -> float | Exception:
    expected = without_markup(after_marker(reference))
    expected = last_box(expected) or expected
    text = without_markup(completion)
    label = choice_label(expected)
    if label is not None:
        letter, expected = label
        chosen = chosen_letter(text)
        if chosen is not None or not expected:
            return float(chosen == letter)
    expected = as_latex(expected)
    gold = _parsed(expected, seconds)
    if not gold:
        return ValueError(f"the reference answer {reference[:80]!r} cannot be read as mathematics")
    boxes = boxed_answers(text)
    if any(folded(answer) == folded(expected) for answer in (boxes[:1] or stated_text(text))):
        return 1.0
    if boxes:
        answers = boxes if "," in expected else boxes[:1]
    else:
        stated = stated_answer(text)
        if stated is not None and folded(stated) == folded(expected):
            return 1.0
        answers = [] if stated is None else [stated]
    readable = [as_latex(answer) for answer in answers if len(answer) <= LONGEST]
    return float(any(_equal(gold, expected, answer, seconds) for answer in readable if answer))


def _equal(gold: list[Any], expected: str, answer: str, seconds: int | None) -> bool:
    from math_verify import verify

    if "=" not in expected:
        sides = [ASSIGNED.sub("", part) for part in answer.split(",")]
        answer = answer if any("=" in side for side in sides) else ",".join(sides)  # x = 7 is 7
    return bool(verify(gold, _parsed(answer, seconds), timeout_seconds=seconds))


def _parsed(answer: str, seconds: int | None) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    parsed: list[Any] = parse(f"${answer}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=seconds)
    return parsed


def _seconds() -> int | None:
    """Return math-verify's time limit for one expression; None where it must not set one."""
    if not killable():
        if threading.current_thread() is threading.main_thread():
            return SECONDS
        _warn_unlimited()
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its limit is off: known
    return None


@lru_cache(maxsize=1)
def _warn_unlimited() -> None:
    LOG.warning("math_accuracy has no limit of time outside the main thread; set its timeout above 0")
