"""The rewards of a batch by component: the small table that ranks exchange.

Legend: N completions, F components, K segments (1 when every reward is per completion). NaN means "not applicable". A
reward per completion beside rewards per segment counts for every segment, never only for the first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, RunFailed
from ..types import IntArray

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTable:
    """Named, weighted reward components.

    Attributes:
        names: the F components, ``name/sub`` for a function that returned a dict.
        weights: factor of each component in the total ``[F]``.
        values: ``[N, F, K]`` before weighting, NaN where not applicable.
        failures: component -> samples whose reward crashed, hung or was no finite number; absent: none.
        reasons: component -> why the first of these failed.
    """

    names: tuple[str, ...]
    weights: Values
    values: Values
    failures: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.weights.shape != (count,) or self.values.ndim != 3 or self.values.shape[1] != count:
            shapes = f"weights {self.weights.shape} and values {self.values.shape}"
            raise ValueError(f"{count} reward names need weights [F] and values [N, F, K]: got {shapes}")

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def segments(self) -> int:
        return int(self.values.shape[2])

    def total(self) -> Values:
        """Return the weighted sum of the components that apply ``[N, K]``; NaN where none does."""
        total: Values = np.nansum(self.values * self.weights[None, :, None], axis=1)
        return np.where(np.isnan(self.values).all(axis=1), np.nan, total)

    def refuse_failed(self, what: str) -> None:
        """Raise RunFailed if a component failed for every row: a mean of such rewards would say nothing.

        Args:
            what: the rows, for the message: "held-out problems".
        """
        for name, count in self.failures.items():
            if len(self) and count >= len(self):
                why = f": {self.reasons[name]}" if name in self.reasons else ""
                raise RunFailed(f"reward {name} failed for all of {len(self)} {what}{why}")

    def without(self, components: Collection[str]) -> RewardTable:
        """Return the table without these components and their sub-components (``name/sub``).

        Raises:
            ConfigError: one of them does not exist, or none would be left.
        """
        matches = [[part for part in components if name == part or name.startswith(f"{part}/")] for name in self.names]
        remaining = [index for index, parts in enumerate(matches) if not parts]
        absent = sorted(set(components) - {part for parts in matches for part in parts})
        if absent or not remaining:
            problem = f"no reward component is called {absent[0]!r}" if absent else "no reward component would be left"
            raise ConfigError(f"algorithm.dead_group_test.without: {problem}; there are {', '.join(self.names)}")
        return RewardTable(
            names=tuple(self.names[index] for index in remaining),
            weights=self.weights[remaining],
            values=self.values[:, remaining],
            failures=self.failures,
            reasons=self.reasons,
        )

    def take(self, rows: Sequence[int] | IntArray) -> RewardTable:
        """Return rows by number, in that order. Failure counts stay with the table that was scored."""
        index = np.asarray(rows, dtype=np.int64)
        return RewardTable(names=self.names, weights=self.weights, values=self.values[index])

    @staticmethod
    def concat(tables: Sequence[RewardTable]) -> RewardTable:
        """Join tables of consecutive rows, from ranks or calls.

        Components come in order of first appearance; a component that a table lacks does not apply to its rows. A table
        without rows adds nothing. Failure counts add up.

        Raises:
            ConfigError: tables differ in their number of segments, both above 1.
            ValueError: no table, or one component with two weights.
        """
        if not tables:
            raise ValueError("concat needs at least one table")
        filled = [table for table in tables if len(table)] or list(tables[:1])
        weights = _merged_weights(filled)
        names = tuple(weights)
        segments = common_segments({f"table {i}": table.segments for i, table in enumerate(filled)})
        return RewardTable(
            names=names,
            weights=np.array(list(weights.values()), dtype=np.float64),
            values=np.concatenate([_placed(table, names, segments) for table in filled]),
            failures=_summed([table.failures for table in tables]),
            reasons={name: text for table in reversed(tables) for name, text in table.reasons.items()},
        )

    @staticmethod
    def stack(
        components: Sequence[tuple[str, float, Values]],
        *,
        failures: Mapping[str, int] | None = None,
        reasons: Mapping[str, str] | None = None,
    ) -> RewardTable:
        """Build a table from (name, weight, values ``[N, k]``) of each component; k = 1 is repeated over all segments.

        Raises:
            ConfigError: two components have different k, both above 1.
        """
        segments = common_segments({name: values.shape[1] for name, _, values in components})
        spread = [np.broadcast_to(values, (len(values), segments)) for _, _, values in components]
        return RewardTable(
            names=tuple(name for name, _, _ in components),
            weights=np.array([weight for _, weight, _ in components], dtype=np.float64),
            values=np.stack(spread, axis=1).astype(np.float64),
            failures=dict(failures or {}),
            reasons=dict(reasons or {}),
        )


def common_segments(counts: Mapping[str, int]) -> int:
    """Return the number of segments K that all can be broadcast to."""
    wide = {name: count for name, count in counts.items() if count != 1}
    if len(set(wide.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in wide.items())
        raise ConfigError(f"rewards must have one value or the same number of segment values for each sample: {listed}")
    return next(iter(wide.values()), 1)


def _merged_weights(tables: Sequence[RewardTable]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for table in tables:
        for name, weight in zip(table.names, table.weights.tolist(), strict=True):
            if weights.setdefault(name, weight) != weight:
                raise ValueError(f"reward {name!r} has weight {weights[name]} in one table and {weight} in another")
    return weights


def _placed(table: RewardTable, names: tuple[str, ...], segments: int) -> Values:
    values = np.full((len(table), len(names), segments), np.nan)
    values[:, [names.index(name) for name in table.names]] = table.values  # K = 1 spreads over the segments
    return values


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for count in counts for name in count)
    return {name: sum(count.get(name, 0) for count in counts) for name in names}
