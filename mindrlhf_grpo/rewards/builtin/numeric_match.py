"""Numeric match: the last number in the completion is the reference answer, as a number.

Arithmetic is decimal, so that "2" equals "2.0" and 0.1 is exact. A comma between groups of three digits separates
thousands, a point decimals. A sign counts where no letter, digit or closing bracket stands before it: "4-2" ends in 2.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from .answers import after_marker, references, tagged

NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z_.)\]}])[-+−])?"  # sign
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))?"
)


def numeric_match(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    column: str | None = None,
    tag: str | None = None,
    tolerance: Annotated[float, Field(ge=0)] = 0.0,
    **columns: list[Any],
) -> list[float | Exception | None]:
    """Return 1 where the last number differs from the reference by at most ``tolerance``, else 0.

    The reward does not apply to a row without a reference; a row whose reference holds no number fails.

    Args:
        column: column of references (numbers, or text that ends in one); default ``answer``, else ``solution``.
        tag: look in the last ``<tag>...</tag>`` only.
    """
    limit = Decimal(str(tolerance))

    def near(completion: str, reference: Any) -> float | Exception | None:
        if reference is None:
            return None
        gold = last_number(after_marker(str(reference)))
        if gold is None:
            return ValueError(f"the reference answer {str(reference)[:80]!r} holds no number")
        number = last_number(tagged(completion, tag) or "")
        return float(number is not None and (number == gold or abs(number - gold) <= limit))

    return [near(*pair) for pair in zip(completions, references(columns, column), strict=True)]


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text; None without one."""
    last = None
    for last in NUMBER.finditer(text.replace("{,}", ",")):  # noqa: B007 - only the last match is used
        pass
    return Decimal(last.group().replace(",", "").replace("−", "-")) if last else None
