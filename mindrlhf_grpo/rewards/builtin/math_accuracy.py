"""Math accuracy: the answer of the completion equals the reference as a mathematical expression (math-verify).

math-verify limits its time with a signal, which works in the main thread only and cannot stop every computation; a
completion on which it runs out of time scores 0, with a warning by math-verify. In a worker process (``timeout`` above 0,
recommended) the process is killed instead, so math-verify's limit is off; in another thread of this process it cannot be
limited at all, which is logged once.
"""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import Any

from ..worker import killable
from .answers import after_marker, references, tagged

LOG = logging.getLogger("mindrlhf_grpo.rewards")
SECONDS = 5  # math-verify's own default
ANCHORS = ("$", r"\boxed", r"\(", r"\[")


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

    A boxed answer comes first, then the last formula or number; adjacent boxes are one answer with several parts. The
    reward does not apply to a row without a reference; a row whose reference is not mathematics fails.

    Args:
        column: column of references: LaTeX, plain numbers, or GSM8K solutions; default ``answer``, else ``solution``.
        tag: look in the last ``<tag>...</tag>`` only.
    """
    seconds = _seconds()
    answers = [tagged(completion, tag) or "" for completion in completions]
    pairs = zip(answers, references(columns, column), strict=True)
    return [None if reference is None else _accuracy(text, str(reference), seconds) for text, reference in pairs]


def prepare() -> None:
    """Import math-verify and build its grammars, about a second."""
    _accuracy("$1$", "1", _seconds())


def _accuracy(completion: str, reference: str, seconds: int | None) -> float | Exception:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    expression = after_marker(reference)
    if not any(anchor in expression for anchor in ANCHORS):
        expression = f"${expression}$"  # without an anchor, LaTeX is not recognised as such
    gold = parse(expression, parsing_timeout=seconds)
    if not gold:
        return ValueError(f"the reference answer {reference[:80]!r} cannot be read as mathematics")
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    answer = parse(completion, extraction_config=targets, extraction_mode="first_match", parsing_timeout=seconds)
    return float(verify(gold, answer, timeout_seconds=seconds))


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
