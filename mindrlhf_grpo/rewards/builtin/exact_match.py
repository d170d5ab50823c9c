"""Exact match: the completion equals the reference answer, letter by letter."""

from __future__ import annotations

from typing import Any

from .answers import references, tagged


def exact_match(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    column: str | None = None,
    tag: str | None = None,
    ignore_case: bool = False,
    **columns: list[Any],
) -> list[float | None]:
    """Return 1 where the completion equals the reference apart from surrounding space, else 0; None without a reference.

    Args:
        column: column of references; default ``answer``, else ``solution``.
        tag: compare the text of the last ``<tag>...</tag>`` instead of the whole completion.
    """

    def same(completion: str, reference: Any) -> float | None:
        if reference is None:
            return None
        answer, gold = tagged(completion, tag), str(reference).strip()
        if answer is not None and ignore_case:
            answer, gold = answer.casefold(), gold.casefold()
        return float(answer == gold)

    return [same(*pair) for pair in zip(completions, references(columns, column), strict=True)]
