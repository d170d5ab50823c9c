"""A table of some completions of a step for the terminal: of a few prompts, the best one and the worst one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..types import RolloutGroup
from .printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from ..rewards import RewardTable

PROMPTS = 2  # shown of a step
PROMPT_END, COMPLETION_START = 160, 400  # characters


@dataclass(frozen=True, slots=True)
class ShownCompletion:
    """A completion for people: the end of its prompt, its own beginning, its reward (None: it has no score)."""

    prompt: str
    completion: str
    reward: float | None


def best_and_worst(groups: Sequence[RolloutGroup], table: RewardTable) -> list[ShownCompletion]:
    """The completions with the highest and the lowest reward of the first prompts; the table has their rows in order."""
    rewards = [float(np.nanmean(row)) if np.isfinite(row).any() else None for row in table.total()]
    order = [-np.inf if reward is None else reward for reward in rewards]  # what has no score comes last
    shown: list[ShownCompletion] = []
    first = 0
    for group in groups[:PROMPTS]:
        rows = range(first, first + len(group.rollouts))
        first = rows.stop
        by_reward = sorted(rows, key=order.__getitem__)
        for row in dict.fromkeys((by_reward[-1], by_reward[0])):
            text = group.rollouts[row - rows.start].text
            shown.append(ShownCompletion(end_of(group.prompt.text), start_of(text), rewards[row]))
    return shown


def end_of(text: str) -> str:
    """The last characters of a prompt."""
    return text if len(text) <= PROMPT_END else f"…{text[-PROMPT_END:]}"


def start_of(text: str) -> str:
    """The first characters of a completion."""
    return text if len(text) <= COMPLETION_START else f"{text[:COMPLETION_START]}…"


def completion_table(title: str, rows: Sequence[ShownCompletion]) -> Table:
    """The rows as a table; what a model wrote is plain text, without control characters."""
    from rich.table import Table
    from rich.text import Text

    table = Table("prompt", "completion", "reward", title=Text(printable(title)), title_justify="left", expand=True)
    for column, ratio in zip(table.columns, (2, 3, None), strict=True):
        column.ratio = ratio
    for row in rows:
        reward = "-" if row.reward is None else f"{row.reward:.3f}"
        table.add_row(Text(printable(row.prompt)), Text(printable(row.completion)), reward)
    return table
