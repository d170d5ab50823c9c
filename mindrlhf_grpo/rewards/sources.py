"""The kinds of reward that a configuration can name, behind one protocol: a function, a reward model, a class with models.

To add a kind, write a class with the members of ``RewardSource`` and choose it in ``build_source``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, RunFailed, UserError
from ..model_files.folder import find_folder
from ..types import Episode, RolloutGroup
from ..user_functions import describe, file_of, line_of, stopping_the_run
from .guard import InProcess, Runner, Worker, run_guarded
from .protocol import Inputs, ModelReward
from .resolve import Reward, model_reward, resolve
from .rows import Failure, Row, Rows, WrongResult, read_result

if TYPE_CHECKING:  # the configuration's library is slow to import, and a worker process needs none of it
    from ..backend import Backend
    from ..config.run import RewardConfig
    from .models.reward_model import Scorer

ENVIRONMENT = "environment"  # names the reward that the environment itself gives
MODEL_PREFIX = "model:"  # before the folder of a reward model
TAKEN_FOR_MESSAGES = re.compile(
    r"TypeError: string indices must be|AttributeError: 'str' object has no attribute '(get|keys|items)'"
)
MESSAGES_HINT = "; completions are texts here: with completions: messages a reward gets lists of messages, as in TRL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The answer of a source for a batch.

    Attributes:
        rows: one entry per completion, by name of the sub-component.
        retried: why the batch was scored sample by sample; empty if one call sufficed.
    """

    rows: Rows
    retried: str = ""


class RewardSource(Protocol):
    """Computes one configured component."""

    @property
    def uses_models(self) -> bool:
        """True if scoring needs memory for models besides the policy."""
        ...

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has the columns that scoring reads."""
        ...

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        """Score all completions, group by group, sample by sample; there is at least one.

        Args:
            columns: the data columns and completions of the same groups, one entry per completion.
        """
        ...

    def rehearse(self, group: RolloutGroup) -> None:
        """Load what scoring loads and score a literal completion, before the first step; raise what is wrong.

        A plain function is not called: it may rightly refuse a completion that no model has written.
        """
        ...

    def failures(self) -> Mapping[str, int]:
        """Return what the source itself counted in its last call, by name."""
        ...

    def close(self) -> None:
        """End processes, or free weights."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSource:
    """A reward function and where it runs.

    Attributes:
        messages: prompts and completions are given as lists of messages.
    """

    reward: Reward
    runner: Runner
    messages: bool = False
    uses_models: bool = False

    def check(self, columns: Iterable[str]) -> None:
        self.reward.check(columns)

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        given = as_messages(groups, columns) if self.messages else columns
        rows, retried = run_guarded(self.runner, self.reward.inputs(given), len(columns["completions"]))
        return Scored(rows=rows if self.messages else with_hints(rows), retried=retried)

    def rehearse(self, group: RolloutGroup) -> None:
        """Do nothing."""

    def failures(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.runner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSource:
    """A trained reward model; a completion whose score is not finite has failed, one without tokens has no score."""

    scorer: Scorer
    uses_models: bool = True

    def check(self, columns: Iterable[str]) -> None:
        """Accept any columns: a reward model reads the conversation only."""

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        what = f"reward model {self.scorer.settings.model!r}"
        with stopping_the_run(what):
            scores = self.scorer.score(groups)
        empty = [not len(rollout.ids) for group in groups for rollout in group.rollouts]
        rows = read_result([None if none else value for none, value in zip(empty, scores, strict=True)], len(empty))
        _refuse_no_value(rows, what)
        return Scored(rows=rows)

    def rehearse(self, group: RolloutGroup) -> None:
        self.score([group], {})

    def failures(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.scorer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClassSource:
    """A class with models of its own: whatever it raises ends the run, for it holds the model of a whole batch."""

    reward: ModelReward
    label: str
    uses_models: bool = True

    def check(self, columns: Iterable[str]) -> None:
        self.reward.check(columns)

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        count = sum(len(group.rollouts) for group in groups)
        with stopping_the_run(self.label, file_of(type(self.reward))):
            values = self.reward.score(groups)
        try:
            rows = read_result(values, count)
        except WrongResult as error:
            raise RunFailed(f"{self.label} failed: {error} ({line_of(type(self.reward))})") from None
        _refuse_no_value(rows, f"{self.label} ({line_of(type(self.reward))})")
        return Scored(rows=rows)

    def rehearse(self, group: RolloutGroup) -> None:
        rehearse: Callable[[RolloutGroup], None] | None = getattr(self.reward, "rehearse", None)
        if rehearse is None:
            self.score([group], {})
            return
        with stopping_the_run(self.label, file_of(type(self.reward))):
            rehearse(group)

    def failures(self) -> Mapping[str, int]:
        counted: Callable[[], Mapping[str, int]] = getattr(self.reward, "failures", dict)  # a class may leave it out
        return counted()

    def close(self) -> None:
        self.reward.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSource:
    """The reward that the environment of each rollout gives; one that has failed gives none."""

    uses_models: bool = False

    def check(self, columns: Iterable[str]) -> None:
        """Accept any columns: the environment has the row."""

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        episodes = [rollout.episode for group in groups for rollout in group.rollouts]
        return Scored(rows={"": [self._row(episode) for episode in episodes]})

    def _row(self, episode: Episode | None) -> Row:
        if episode is None or episode.reward is None:
            return Failure(
                "no environment" if episode is None else episode.failure or "the environment gives no reward"
            )
        return (episode.reward,)

    def rehearse(self, group: RolloutGroup) -> None:
        """Do nothing."""

    def failures(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        """Do nothing."""


def as_messages(groups: Sequence[RolloutGroup], columns: Inputs) -> Inputs:
    """Return the columns with prompts and completions as lists of messages, as TRL gives conversations to rewards."""
    prompts = [
        [dict(message) for message in group.prompt.messages] or [{"role": "user", "content": group.prompt.text}]
        for group in groups
        for _ in group.rollouts
    ]
    episodes = [rollout.episode for group in groups for rollout in group.rollouts]
    completions = [
        [{"role": "assistant", "content": text}] if episode is None else [dict(message) for message in episode.messages]
        for text, episode in zip(columns["completions"], episodes, strict=True)
    ]
    return {**columns, "prompts": prompts, "completions": completions}


def with_hints(rows: Rows) -> Rows:
    """Return rows whose failures, where they look as if a text was taken for messages, say how to get messages."""
    return {
        name: [
            Failure(row.reason + MESSAGES_HINT)
            if isinstance(row, Failure) and TAKEN_FOR_MESSAGES.match(row.reason)
            else row
            for row in sub_rows
        ]
        for name, sub_rows in rows.items()
    }


def check_form(config: RewardConfig, label: str) -> None:
    """Raise ConfigError for messages asked for a reward that reads texts or rollouts."""
    if config.completions == "messages" and ":" not in config.function:
        raise ConfigError(f"{label}: {config.function} is built in and reads texts; accepted: completions: text")
    if config.completions == "messages" and config.function.startswith(MODEL_PREFIX):
        raise ConfigError(f"{label}: a reward model renders messages itself; accepted: completions: text")


def component_name(config: RewardConfig) -> str:
    """Return the configured name, else the last part of the function's path or of the reward model's folder."""
    return config.name or config.function.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def build_source(config: RewardConfig, backend: Backend | None, policy: str | None) -> RewardSource:
    """Build the function, reward model or class that a component names.

    Raises:
        ConfigError: whatever is wrong with the name or its arguments.
    """
    label = f"reward {component_name(config)!r}"
    check_form(config, label)
    if config.function == ENVIRONMENT:
        if config.arguments or config.timeout:
            raise ConfigError(f"{label}: the environment's own reward takes no settings; environment.timeout limits it")
        return EnvironmentSource()
    if config.function.startswith(MODEL_PREFIX):
        from .models.reward_model import Scorer, settings_from_arguments

        settings = settings_from_arguments(config.function.removeprefix(MODEL_PREFIX), config.arguments)
        if backend is None:
            raise ConfigError(f"reward {config.function!r}: a reward model needs a backend to compute it")
        return RewardModelSource(scorer=Scorer(settings, backend, _policy_folder(policy)))
    user_class = model_reward(config.function, config.arguments, label=label)
    if user_class is not None:
        if config.timeout > 0:
            raise ConfigError(f"{label}: a class with models of its own runs in this process; set timeout: 0")
        if config.completions == "messages":
            raise ConfigError(f"{label}: a class with models of its own gets rollouts; accepted: completions: text")
        return ModelClassSource(
            reward=build_model_reward(user_class, backend, _policy_folder(policy), config.arguments), label=label
        )
    reward = resolve(config.function, config.arguments, label=label)
    runner = Worker(reward, config.timeout) if config.timeout > 0 else InProcess(reward)
    return FunctionSource(reward=reward, runner=runner, messages=config.completions == "messages")


def _refuse_no_value(rows: Rows, what: str) -> None:
    """Raise RunFailed where every value of a batch is a failure: a model that gives NaN does so for every sample."""
    every = [row for sub_rows in rows.values() for row in sub_rows]
    failed = [row for row in every if isinstance(row, Failure)]
    if every and len(failed) == len(every):
        raise RunFailed(f"{what} gave none of {len(every)} completions a value: the first has {failed[0].reason}")


def _policy_folder(policy: str | None) -> Path | None:
    return None if policy is None else find_folder(policy)


def build_model_reward(
    user_class: type[ModelReward], backend: Backend | None, policy_folder: Path | None, arguments: Mapping[str, Any]
) -> ModelReward:
    """Build a class with models of its own as its protocol says; with None for both, nothing is loaded.

    Raises:
        ConfigError: whatever its constructor raises.
    """
    construct: Callable[..., ModelReward] = user_class
    try:
        return construct(backend, policy_folder, **arguments)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{user_class.__name__} cannot be built with these arguments: {describe(error, file_of(user_class))}"
        ) from error
