"""Exact match: the completion is the reference answer, letter by letter."""

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
    """1 where the completion equals the reference, surrounding space aside, else 0; no reference: not applicable.

    Args:
        column: column of references; default ``answer``, else ``solution``.
        tag: compare the text of the last ``<tag>...</tag>`` instead of the whole completion.
    """

    def same(completion: str, reference: Any) -> float | None:
        if reference is None:
            return None
        answer, wanted = tagged(completion, tag), str(reference).strip()
        if answer is not None and ignore_case:
            answer, wanted = answer.casefold(), wanted.casefold()
        return float(answer == wanted)

    return [same(*pair) for pair in zip(completions, references(columns, column), strict=True)]
