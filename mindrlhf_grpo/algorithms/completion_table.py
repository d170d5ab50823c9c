"""The completion table: a few numbers about every completion of a step, gathered over ranks for credit assignment.

Legend: N completions, F reward components, K items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..batches.online import completion_lengths, sampled_lengths
from ..rewards import RewardTable
from ..types import TRUNCATED, Episode, FinishReason, FloatArray, IntArray, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionTable:
    """The completions of one rank or of all.

    Attributes:
        prompt: number of each completion's prompt in this step, over all ranks ``[N]``.
        lengths, sampled: tokens of each completion, and those of them that the model sampled ``[N]``.
        truncated: whether the token or turn budget ended the completion ``[N]``.
        baselines: total reward of the prompt's greedy completion ``[N]``; None where no algorithm asks for it.
        episodes: what happened in the environment of each completion, without its messages; empty without environment.
    """

    rewards: RewardTable
    prompt: IntArray
    lengths: IntArray
    truncated: NDArray[np.bool_]
    sampled: IntArray
    baselines: FloatArray | None = None
    episodes: tuple[tuple[Episode, FinishReason], ...] = ()

    @staticmethod
    def of(
        groups: Sequence[RolloutGroup], rewards: RewardTable, numbers: Sequence[int], *, greedy: RewardTable | None
    ) -> CompletionTable:
        """The table of groups whose prompts have these numbers; ``greedy`` has one row per prompt."""
        sizes = [len(group.rollouts) for group in groups]
        finish = [rollout.finish for group in groups for rollout in group.rollouts]
        return CompletionTable(
            rewards=rewards,
            prompt=np.repeat(np.asarray(numbers, np.int64), sizes),
            lengths=completion_lengths(groups),
            sampled=sampled_lengths(groups),
            truncated=np.asarray([reason in TRUNCATED for reason in finish], bool),
            episodes=tuple(
                (replace(rollout.episode, messages=()), rollout.finish)
                for group in groups
                for rollout in group.rollouts
                if rollout.episode is not None
            ),
            baselines=None if greedy is None else np.repeat(np.nan_to_num(greedy.total().mean(axis=1)), sizes),
        )

    def accepted(self, place: IntArray) -> CompletionTable:
        """The rows of prompts that have a place in the step (-1: none), numbered by it; failures stay counted."""
        rows = np.flatnonzero(place[self.prompt] >= 0)
        return CompletionTable(
            rewards=replace(self.rewards.take(rows), failures=self.rewards.failures, reasons=self.rewards.reasons),
            prompt=place[self.prompt[rows]].astype(np.int64),
            lengths=self.lengths[rows],
            sampled=self.sampled[rows],
            episodes=tuple(self.episodes[row] for row in rows) if self.episodes else (),
            truncated=self.truncated[rows],
            baselines=None if self.baselines is None else self.baselines[rows],
        )

    @staticmethod
    def concat(tables: Sequence[CompletionTable]) -> CompletionTable:
        """Rows of all tables, in order."""
        baselines: list[FloatArray] = [table.baselines for table in tables if table.baselines is not None]
        return CompletionTable(
            rewards=RewardTable.concat([table.rewards for table in tables]),
            prompt=np.concatenate([table.prompt for table in tables]),
            lengths=np.concatenate([table.lengths for table in tables]),
            sampled=np.concatenate([table.sampled for table in tables]),
            episodes=tuple(pair for table in tables for pair in table.episodes),
            truncated=np.concatenate([table.truncated for table in tables]),
            baselines=np.concatenate(baselines).astype(np.float64) if baselines else None,
        )
