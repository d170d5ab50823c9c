"""The rewards of a run: configured components in, a table of named values out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..types import FinishReason, Prompt, Rollout, RolloutGroup
from .protocol import Inputs
from .rows import Failure, Row, Rows
from .sources import RewardSource, build_source, component_name
from .table import RewardTable, Values

if TYPE_CHECKING:  # the configuration's library is slow to import, and a worker process needs none of it
    from ..backend import Backend
    from ..config.run import RewardConfig
    from ..tokenizers.tokenizer import Tokenizer

LOG = logging.getLogger("mindrlhf_grpo.rewards")
EXCERPT = 80  # characters of a prompt or completion in a message
LITERAL = "The answer is 1."  # the completion that models judge before a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One configured reward: its name, its weight, the value of a failed sample, and the source that computes it."""

    name: str
    weight: float
    on_failure: float
    source: RewardSource


class Rewards:
    """Scores completions by every configured component, in order.

    Args:
        backend: computes reward models (``function: model:FOLDER``); each is loaded to score and released afterwards.
        policy: folder of the policy, whose tokens a reward model may share.

    Attributes:
        components: the configured rewards, in order.

    Raises:
        ConfigError: at construction, for a function, argument or name that is wrong.
    """

    def __init__(
        self, configs: Sequence[RewardConfig], *, backend: Backend | None = None, policy: str | None = None
    ) -> None:
        self.components = tuple(
            Component(
                name=component_name(config),
                weight=config.weight,
                on_failure=math.nan if config.on_failure is None else config.on_failure,
                source=build_source(config, backend, policy),
            )
            for config in configs
        )
        for name in self.names:
            if self.names.count(name) > 1:
                raise ConfigError(f"rewards: {name!r} is the name of two components; give each its own name")

    @property
    def uses_models(self) -> bool:
        """True if scoring needs memory for models besides the policy."""
        return any(component.source.uses_models for component in self.components)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components; one that returns a dict adds ``name/sub`` to the table instead."""
        return tuple(component.name for component in self.components)

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has every column that a component reads."""
        present = list(columns)
        for component in self.components:
            component.source.check(present)

    def score(self, groups: Sequence[RolloutGroup]) -> RewardTable:
        """Score every completion, group by group, sample by sample.

        A sample whose reward fails gets the component's ``on_failure`` value and is counted in ``failures``; one line
        of the log shows the first failure of each component.

        Raises:
            ConfigError: a column is missing, or components differ in their number of segments.
        """
        columns = _columns(groups)
        parts: list[tuple[str, float, Values]] = []
        failures: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for component in self.components:
            if not columns["completions"]:
                parts.append((component.name, component.weight, np.zeros((0, 1))))
                continue
            for name, rows in _score_component(component, groups, columns):
                parts.append((name, component.weight, _as_values(rows, component.on_failure)))
                failed = [row.reason for row in rows if isinstance(row, Failure)]
                if failed:
                    failures[name], reasons[name] = len(failed), _one_line(failed[0])
            failures |= {f"{component.name}/{name}": n for name, n in component.source.failures().items()}
        return RewardTable.stack(parts, failures=failures, reasons=reasons)

    def rehearse(self, prompt: Prompt, tokenizer: Tokenizer) -> None:
        """Load every model that scores and let it judge a literal completion, before a policy takes the memory.

        Args:
            prompt: a row of the data.
            tokenizer: the policy's.

        Raises:
            RunFailed, ConfigError: a model that cannot be loaded, raises, or gives no number.
        """
        ids = np.asarray(tokenizer.encode(LITERAL), np.int32)
        literal = Rollout(sample=0, ids=ids, logps=np.zeros(len(ids)), finish=FinishReason.STOP, text=LITERAL)
        for component in self.components:
            component.source.rehearse(RolloutGroup(prompt=prompt, rollouts=(literal,)))

    def close(self) -> None:
        """End the processes of guarded rewards and free models."""
        for component in self.components:
            component.source.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _columns(groups: Sequence[RolloutGroup]) -> Inputs:
    """Return every column a function can read, one entry per completion; None where a row lacks the column."""
    pairs = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    names = dict.fromkeys(name for group in groups for name in group.prompt.columns)
    return {name: [prompt.columns.get(name) for prompt, _ in pairs] for name in names} | {
        "prompts": [prompt.text for prompt, _ in pairs],
        "completions": [rollout.text for _, rollout in pairs],
        "completion_ids": [sampled_ids(rollout) for _, rollout in pairs],
    }


def sampled_ids(rollout: Rollout) -> list[int]:
    """The tokens that the model sampled: what an environment wrote is not its completion."""
    ids = np.asarray(rollout.ids)
    return list((ids if rollout.sampled is None else ids[rollout.sampled]).tolist())


def _score_component(
    component: Component, groups: Sequence[RolloutGroup], columns: Inputs
) -> list[tuple[str, list[Row]]]:
    """Return (name, rows) of each sub-component."""
    scored = component.source.score(groups, columns)
    _report(component, scored.rows, scored.retried, columns)
    return [(f"{component.name}/{sub}" if sub else component.name, rows) for sub, rows in scored.rows.items()]


def _as_values(rows: Sequence[Row], on_failure: float) -> Values:
    """Return rows as an array ``[N, k]`` with failures replaced."""
    width = max((len(row) for row in rows if isinstance(row, tuple)), default=1)
    values = np.full((len(rows), width), on_failure, dtype=np.float64)
    for i, row in enumerate(rows):
        if not isinstance(row, Failure):
            values[i] = row
    return values


def _report(component: Component, rows: Rows, retried: str, columns: Inputs) -> None:
    """Log one line if a sample failed or the batch had to be scored sample by sample."""
    failed = {i: row.reason for sub_rows in rows.values() for i, row in enumerate(sub_rows) if isinstance(row, Failure)}
    if failed:
        first = min(failed)
        LOG.warning(
            "reward %s failed for %d of %d samples, which get %s; sample %d: %s; prompt %s; completion %s",
            component.name,
            len(failed),
            len(columns["completions"]),
            "no value" if math.isnan(component.on_failure) else component.on_failure,
            first,
            _one_line(failed[first]),
            _excerpt(columns["prompts"][first]),
            _excerpt(columns["completions"][first]),
        )
    elif retried:
        LOG.warning(
            "reward %s scored the batch sample by sample, as in one call: %s", component.name, _one_line(retried)
        )


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= EXCERPT else text[: EXCERPT // 2] + " ... " + text[-EXCERPT // 2 :])


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
