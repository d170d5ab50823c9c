"""What a reward function is.

A plain function with keyword settings. It is called by keyword with ``prompts``, ``completions``, ``completion_ids``,
the data columns it names (each repeated per completion) and its settings, and need only name those it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from ..types import RolloutGroup

Inputs: TypeAlias = dict[str, list[Any]]  # by parameter, one entry per completion


class RewardFunction(Protocol):
    """Scores N completions.

    Returns N values (a list or an array ``[N]``), N rows of K segment values (``[N, K]``), or a dict of name -> one of
    these. None or NaN: not applicable to that sample. An exception as an entry fails that sample only.
    """

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> Any: ...


class ModelReward(Protocol):
    """A reward that computes with models of its own, written as a class with ``uses_models = True``.

    It is built ``Class(backend, policy_folder, **arguments)``. Building it reads files and refuses wrong settings, but
    loads no weights and calls no server: checks before a run build it with None for both.
    """

    uses_models: ClassVar[bool]

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has the columns that it reads."""
        ...

    def score(self, groups: Sequence[RolloutGroup]) -> Mapping[str, Any]:
        """Values ``[N]`` or ``[N, K]`` of every completion, group by group, sample by sample.

        By name: "" for the component itself, others as ``component/name``; NaN or None where one does not apply.
        """
        ...

    def failures(self) -> Mapping[str, int]:
        """How often what happened in the last ``score``, by name: counted as ``reward/failures/COMPONENT/NAME``.

        A class may leave this method out.
        """
        ...

    def close(self) -> None:
        """Free weights and connections."""
        ...
