"""The two kinds of user-defined rewards: a plain function, and a class that computes with models.

A function is called by keyword with ``prompts``, ``completions``, ``completion_ids``, the data columns it names (each
repeated per completion) and its settings; it names only those it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from ..types import RolloutGroup

Inputs: TypeAlias = dict[str, list[Any]]  # by parameter, one entry per completion


class RewardFunction(Protocol):
    """Scores N completions.

    Returns N values (a list or an array ``[N]``), N rows of K segment values (``[N, K]``), or a dict of name -> one of
    these. None, or masked in a masked array: not applicable to that sample. NaN, an infinity or an exception as an entry fails that sample only.
    """

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: list[Any]
    ) -> Any: ...


class ModelReward(Protocol):
    """A reward that computes with its own models, written as a class with ``uses_models = True``.

    It is built as ``Class(backend, policy_folder, **arguments)``. Building it reads files and rejects wrong settings, but
    loads no weights and calls no server: the checks before a run build it with None for both. What it raises later ends
    the run, with its line: code that holds a model fails for a whole batch, never for one sample.
    """

    uses_models: ClassVar[bool]

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has the columns that the reward reads."""
        ...

    def score(self, groups: Sequence[RolloutGroup]) -> Mapping[str, Any]:
        """Return values ``[N]`` or ``[N, K]`` by name, group by group, sample by sample.

        ``""`` names the component itself, others become ``component/name``; None, or masked in a masked array, where
        one does not apply. NaN and infinities fail their sample; if no sample has a value, the run ends.
        """
        ...

    def rehearse(self, group: RolloutGroup) -> None:
        """Load every model and judge a literal completion, before the run's first step; raise what is wrong.

        A class may leave this method out: then ``score`` is called with the group.
        """
        ...

    def failures(self) -> Mapping[str, int]:
        """Return name -> count of what failed in the last ``score``, reported as ``reward/failures/COMPONENT/NAME``.

        A class may leave this method out.
        """
        ...

    def close(self) -> None:
        """Free weights and connections."""
        ...
