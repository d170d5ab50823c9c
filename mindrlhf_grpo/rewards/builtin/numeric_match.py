"""Numeric match: the last number in the completion is the reference answer, as a number.

Decimal arithmetic, so that "2" equals "2.0" and 0.1 is exact. A comma between groups of three digits separates
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
    """1 where the last number differs from the reference by at most ``tolerance``, else 0.

    A row without a reference is not applicable; one whose reference holds no number fails.

    Args:
        column: column of references (numbers, or text that ends in one); default ``answer``, else ``solution``.
        tag: look in the last ``<tag>...</tag>`` only.
    """
    limit = Decimal(str(tolerance))

    def near(completion: str, reference: Any) -> float | Exception | None:
        if reference is None:
            return None
        wanted = last_number(after_marker(str(reference)))
        if wanted is None:
            return ValueError(f"the reference answer {str(reference)[:80]!r} holds no number")
        found = last_number(tagged(completion, tag) or "")
        return float(found is not None and (found == wanted or abs(found - wanted) <= limit))

    return [near(*pair) for pair in zip(completions, references(columns, column), strict=True)]


def last_number(text: str) -> Decimal | None:
    """The last number written in a text."""
    found = None
    for found in NUMBER.finditer(text.replace("{,}", ",")):  # noqa: B007 - the last one is wanted
        pass
    return Decimal(found.group().replace(",", "").replace("−", "-")) if found else None
