"""What a reward function is.

A plain function with keyword settings. It is called by keyword with ``prompts``, ``completions``, ``completion_ids``,
the data columns it names (each repeated per completion) and its settings, and need only name those it reads.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

Inputs: TypeAlias = dict[str, list[Any]]  # by parameter, one entry per completion


class RewardFunction(Protocol):
    """Scores N completions.

    Returns N values (a list or an array ``[N]``), N rows of K segment values (``[N, K]``), or a dict of name -> one of
    these. None or NaN: not applicable to that sample. An exception as an entry fails that sample only.
    """

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> Any: ...
