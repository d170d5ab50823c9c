"""The rewards of a run: configured components in, a table of named values out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, UserError
from ..model_files.folder import find_folder
from ..types import RolloutGroup
from ..user_functions import describe
from .guard import InProcess, Runner, Worker, run_guarded
from .protocol import Inputs, ModelReward
from .resolve import Reward, model_reward, resolve
from .rows import Failure, Row, Rows, WrongResult, concat_rows, read_result
from .table import RewardTable, Values

if TYPE_CHECKING:  # the configuration's library is slow to import, and a worker process needs none of it
    from ..backend import Backend
    from ..config.run import RewardConfig
    from .models.reward_model import Scorer

LOG = logging.getLogger("mindrlhf_grpo.rewards")
MODEL = "model:"  # before the folder of a reward model
EXCERPT = 80  # characters of a prompt or completion in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One configured reward: a function and where it runs, a reward model, or a class with models of its own."""

    name: str
    weight: float
    on_failure: float
    source: Function | Scorer | ModelRewardSource

    def close(self) -> None:
        """End a guarded function's process, or free a model's weights."""
        self.source.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A reward function and where it runs."""

    reward: Reward
    runner: Runner

    def close(self) -> None:
        self.runner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRewardSource:
    """A reward that computes with models of its own."""

    reward: ModelReward

    def rows(self, groups: Sequence[RolloutGroup], count: int) -> Rows:
        """Its answer for ``count`` completions; an exception that is not the user's mistake fails all of them."""
        try:
            return read_result(self.reward.score(groups), count)
        except UserError:
            raise
        except (WrongResult, Exception) as error:
            reason = str(error) if isinstance(error, WrongResult) else describe(error)
            return concat_rows([(count, Failure(reason))])

    def failures(self) -> Mapping[str, int]:
        """What the class itself counted in its last call."""
        counted: Callable[[], Mapping[str, int]] = getattr(self.reward, "failures", dict)
        return counted()

    def close(self) -> None:
        self.reward.close()


class Rewards:
    """Scores completions by every configured component, in order.

    Args:
        backend: computes reward models (``function: model:FOLDER``); each is loaded to score and released after it.
        policy: folder of the policy, whose tokens a reward model may share.

    Raises:
        ConfigError: at construction, for a function, argument or name that is wrong.
    """

    def __init__(
        self, configs: Sequence[RewardConfig], *, backend: Backend | None = None, policy: str | None = None
    ) -> None:
        self._components = [_component(config, backend, policy) for config in configs]
        names = [component.name for component in self._components]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"rewards: {name!r} is the name of two components; give each its own name")

    @property
    def uses_models(self) -> bool:
        """Whether scoring needs memory for models besides the policy."""
        return any(not isinstance(component.source, Function) for component in self._components)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components; a function that returns a dict adds ``name/sub`` to the table instead."""
        return tuple(component.name for component in self._components)

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has the columns that the functions name."""
        there = list(columns)
        for component in self._components:
            if isinstance(component.source, Function | ModelRewardSource):
                component.source.reward.check(there)

    def score(self, groups: Sequence[RolloutGroup]) -> RewardTable:
        """Rewards of every completion, group by group, sample by sample.

        A sample whose reward fails has the component's ``on_failure`` value, is counted in ``failures``, and one
        line of the log shows the first of each component.

        Raises:
            ConfigError: a column is missing, or components differ in their number of segments.
        """
        columns = _columns(groups)
        parts: list[tuple[str, float, Values]] = []
        failures: dict[str, int] = {}
        for component in self._components:
            for name, values, failed in _scored(component, groups, columns):
                parts.append((name, component.weight, values))
                if failed:
                    failures[name] = failed
            if isinstance(component.source, ModelRewardSource) and columns["completions"]:
                failures |= {f"{component.name}/{name}": n for name, n in component.source.failures().items()}
        return RewardTable.stack(parts, failures=failures)

    def close(self) -> None:
        """End the processes of guarded rewards."""
        for component in self._components:
            component.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _component(config: RewardConfig, backend: Backend | None, policy: str | None) -> Component:
    return Component(
        name=name_of(config),
        weight=config.weight,
        on_failure=math.nan if config.on_failure is None else config.on_failure,
        source=_source(config, backend, policy),
    )


def name_of(config: RewardConfig) -> str:
    """The name given, else the last part of the function's path or of the reward model's folder."""
    return config.name or config.function.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def _source(config: RewardConfig, backend: Backend | None, policy: str | None) -> Function | Scorer | ModelRewardSource:
    """The function, reward model or class that a component names."""
    if config.function.startswith(MODEL):
        from .models.reward_model import Scorer, settings_of

        settings = settings_of(config.function.removeprefix(MODEL), config.arguments)
        if backend is None:
            raise ConfigError(f"reward {config.function!r}: a reward model needs a backend to compute it")
        return Scorer(settings, backend, None if policy is None else find_folder(policy))
    label = f"reward {name_of(config)!r}"
    own = model_reward(config.function, config.arguments, label=label)
    if own is not None:
        if config.timeout > 0:
            raise ConfigError(f"{label}: a class with models of its own runs in this process; set timeout: 0")
        folder = None if policy is None else find_folder(policy)
        return ModelRewardSource(reward=build_own(own, backend, folder, config.arguments))
    reward = resolve(config.function, config.arguments, label=label)
    return Function(reward=reward, runner=Worker(reward, config.timeout) if config.timeout > 0 else InProcess(reward))


def build_own(
    own: type[ModelReward], backend: Backend | None, policy_folder: Path | None, arguments: Mapping[str, Any]
) -> ModelReward:
    """A class with models of its own, built as its protocol says."""
    construct: Callable[..., ModelReward] = own
    return construct(backend, policy_folder, **arguments)


def _columns(groups: Sequence[RolloutGroup]) -> Inputs:
    """Every column a function can read, one entry per completion; None where a row lacks the column."""
    pairs = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    names = dict.fromkeys(name for group in groups for name in group.prompt.columns)
    return {name: [prompt.columns.get(name) for prompt, _ in pairs] for name in names} | {
        "prompts": [prompt.text for prompt, _ in pairs],
        "completions": [rollout.text for _, rollout in pairs],
        "completion_ids": [np.asarray(rollout.ids).tolist() for _, rollout in pairs],
    }


def _scored(component: Component, groups: Sequence[RolloutGroup], columns: Inputs) -> list[tuple[str, Values, int]]:
    """(name, values ``[N, k]``, failed samples) of each thing that the component gives."""
    count, source = len(columns["completions"]), component.source
    if count == 0:
        return [(component.name, np.zeros((0, 1)), 0)]
    if isinstance(source, ModelRewardSource):
        rows, retried = source.rows(groups, count), ""
    elif isinstance(source, Function):
        rows, retried = run_guarded(source.runner, source.reward.inputs(columns), count)
    else:
        return [_judged(component, source.score(groups))]
    _report(component, rows, retried, columns)
    return [
        (f"{component.name}/{sub}" if sub else component.name, *_settled(of_sub, component.on_failure))
        for sub, of_sub in rows.items()
    ]


def _judged(component: Component, scores: NDArray[np.float64]) -> tuple[str, Values, int]:
    """(name, values ``[N, 1]``, failed samples) of a reward model; a score that is infinite has failed."""
    failed = np.isinf(scores)
    return component.name, np.where(failed, component.on_failure, scores)[:, None], int(failed.sum())


def _settled(rows: Sequence[Row], on_failure: float) -> tuple[Values, int]:
    """Rows as an array ``[N, k]``, failures replaced; and how many failed."""
    width = max((len(row) for row in rows if isinstance(row, tuple)), default=1)
    values = np.full((len(rows), width), on_failure, dtype=np.float64)
    for i, row in enumerate(rows):
        if not isinstance(row, Failure):
            values[i] = row
    return values, sum(isinstance(row, Failure) for row in rows)


def _report(component: Component, rows: dict[str, list[Row]], retried: str, columns: Inputs) -> None:
    """One line if a sample failed, or if the batch had to be scored sample by sample."""
    failed = {i: row.reason for of_sub in rows.values() for i, row in enumerate(of_sub) if isinstance(row, Failure)}
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
