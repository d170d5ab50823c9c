"""Numeric match: the last number in the completion is the reference answer, as a number.

Arithmetic is decimal, so that "2" equals "2.0" and 0.1 is exact; fractions have 28 digits. A sign counts where no letter,
digit or closing bracket stands before it: "4-2" ends in 2. Read are ``1/2``, ``1 1/2``, ``½``, ``\\frac{1}{2}``, ``1e3``, and
thousands apart by a thin or no-break space; how decimals and other thousands are written, ``notation`` says. Not read:
numbers in words, percent as hundredths ("50%" is 50), roots and other expressions (``math_accuracy`` reads those).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from .answers import after_marker, references
from .written_answers import THIN, VULGAR, answer_region

Notation: TypeAlias = Literal["1,234.5", "1.234,5", "1 234.5", "1 234,5"]

SIGN = r"(?:(?<![0-9A-Za-z_.)\]}])[-+−])?"
FRACTION = r"(?<![0-9.,/])(?:([0-9]{1,9}) )?([0-9]{1,18})\s?/\s?([0-9]{1,18})(?![0-9/]|[.,][0-9])"
PLAIN = (
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))?"
)
NUMBER = re.compile(f"{SIGN}(?:{FRACTION}|{PLAIN})")
LATEX_FRACTION = re.compile(
    r"\\[dt]?frac\s?\{\s?([0-9]{1,18})\s?\}\s?\{\s?([0-9]{1,18})\s?\}|\\[dt]?frac([0-9])([0-9])"
)
VULGAR_FRACTION = re.compile(rf"(?<![0-9])([0-9]{{0,9}})\s?([{''.join(VULGAR)}])")
THOUSANDS = {
    separator: re.compile(rf"(?<![0-9.,])([0-9]{{1,3}})((?:{separator}[0-9]{{3}})+)(?![0-9])")
    for separator in (rf"(?:{THIN})", " ", r"\.")
}


def numeric_match(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    column: str | None = None,
    tag: str | None = None,
    tolerance: Annotated[float, Field(ge=0)] = 0.0,
    notation: Notation = "1,234.5",
    **columns: list[Any],
) -> list[float | Exception | None]:
    """Return 1 where the last number differs from the reference by at most ``tolerance``, else 0.

    The reward does not apply to a row without a reference; a row whose reference holds no number fails.

    Args:
        column: column of references (numbers, or text that ends in one); default ``answer``, else ``solution``.
        tag: look in the last ``<tag>...</tag>`` only; without it, after the last ``</think>``.
        notation: how thousands and decimals are written, by example; also in references that are text.
    """
    limit = Decimal(str(tolerance))

    def near(completion: str, reference: Any) -> float | Exception | None:
        if reference is None:
            return None
        gold = last_number(after_marker(str(reference)), notation if isinstance(reference, str) else "1,234.5")
        if gold is None:
            return ValueError(f"the reference answer {str(reference)[:80]!r} holds no number")
        number = last_number(answer_region(completion, tag), notation)
        return float(number is not None and (number == gold or abs(number - gold) <= limit))

    return [near(*pair) for pair in zip(completions, references(columns, column), strict=True)]


def last_number(text: str, notation: Notation = "1,234.5") -> Decimal | None:
    """Return the last number in a text; None without one."""
    last = None
    for last in NUMBER.finditer(_in_default_notation(text, notation)):  # noqa: B007 - only the last match is used
        pass
    return None if last is None else _value(last)


def first_number(text: str) -> Decimal | None:
    """Return the first number in a text; None without one."""
    match = NUMBER.search(_in_default_notation(text, "1,234.5"))
    return None if match is None else _value(match)


def _value(match: re.Match[str]) -> Decimal:
    number = match[0].replace("−", "-")
    if match[3] is None:
        return Decimal(number.replace(",", ""))
    whole, numerator, denominator = (int(part or 0) for part in match.groups())
    if denominator == 0:
        return Decimal(0)
    value = Decimal(numerator) / Decimal(denominator) + (whole if numerator < denominator else 0)
    return -value if number[0] == "-" else value


def _in_default_notation(text: str, notation: Notation) -> str:
    """Write numbers as ``1,234.5`` and fractions as ``a/b``."""
    if "frac" in text:
        text = LATEX_FRACTION.sub(_fraction, text)
    text = _without_thousands(text.replace("{,}", ","), rf"(?:{THIN})")
    if not text.isascii():
        text = VULGAR_FRACTION.sub(
            lambda match: f"{match[1]} {VULGAR[match[2]]}" if match[1] else VULGAR[match[2]], text
        )
    if notation == "1,234.5":
        return text
    text = _without_thousands(text, r"\." if notation == "1.234,5" else " ")
    return re.sub(r"(?<=[0-9]),(?=[0-9])", ".", text) if notation != "1 234.5" else text


def _fraction(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()]
    return f"{' ' if before.isdigit() else ''}{match[1] or match[3]}/{match[2] or match[4]}"


def _without_thousands(text: str, separator: str) -> str:
    return THOUSANDS[separator].sub(lambda match: re.sub("[^0-9]", "", match[0]), text)
