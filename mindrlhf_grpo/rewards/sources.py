"""The kinds of reward that a configuration can name, behind one protocol: a function, a reward model, a class with models.

To add a kind, write a class with the members of ``RewardSource`` and choose it in ``build_source``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, UserError
from ..model_files.folder import find_folder
from ..types import RolloutGroup
from ..user_functions import describe
from .guard import InProcess, Runner, Worker, run_guarded
from .protocol import Inputs, ModelReward
from .resolve import Reward, model_reward, resolve
from .rows import Failure, Rows, WrongResult, concat_rows, read_result

if TYPE_CHECKING:  # the configuration's library is slow to import, and a worker process needs none of it
    from ..backend import Backend
    from ..config.run import RewardConfig
    from .models.reward_model import Scorer

MODEL_PREFIX = "model:"  # before the folder of a reward model


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

    def failures(self) -> Mapping[str, int]:
        """Return what the source itself counted in its last call, by name."""
        ...

    def close(self) -> None:
        """End processes, or free weights."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSource:
    """A reward function and where it runs."""

    reward: Reward
    runner: Runner
    uses_models: bool = False

    def check(self, columns: Iterable[str]) -> None:
        self.reward.check(columns)

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        rows, retried = run_guarded(self.runner, self.reward.inputs(columns), len(columns["completions"]))
        return Scored(rows=rows, retried=retried)

    def failures(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.runner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSource:
    """A trained reward model; a completion whose score is infinite has failed."""

    scorer: Scorer
    uses_models: bool = True

    def check(self, columns: Iterable[str]) -> None:
        """Accept any columns: a reward model reads the conversation only."""

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        return Scored(rows=read_result(self.scorer.score(groups), len(columns["completions"])))

    def failures(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.scorer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClassSource:
    """A class with models of its own; an exception that is not the user's mistake fails the whole batch."""

    reward: ModelReward
    uses_models: bool = True

    def check(self, columns: Iterable[str]) -> None:
        self.reward.check(columns)

    def score(self, groups: Sequence[RolloutGroup], columns: Inputs) -> Scored:
        count = len(columns["completions"])
        try:
            return Scored(rows=read_result(self.reward.score(groups), count))
        except UserError:
            raise
        except (WrongResult, Exception) as error:
            reason = str(error) if isinstance(error, WrongResult) else describe(error)
            return Scored(rows=concat_rows([(count, Failure(reason))]))

    def failures(self) -> Mapping[str, int]:
        counted: Callable[[], Mapping[str, int]] = getattr(self.reward, "failures", dict)  # a class may leave it out
        return counted()

    def close(self) -> None:
        self.reward.close()


def component_name(config: RewardConfig) -> str:
    """Return the configured name, else the last part of the function's path or of the reward model's folder."""
    return config.name or config.function.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def build_source(config: RewardConfig, backend: Backend | None, policy: str | None) -> RewardSource:
    """Build the function, reward model or class that a component names.

    Raises:
        ConfigError: whatever is wrong with the name or its arguments.
    """
    if config.function.startswith(MODEL_PREFIX):
        from .models.reward_model import Scorer, settings_from_arguments

        settings = settings_from_arguments(config.function.removeprefix(MODEL_PREFIX), config.arguments)
        if backend is None:
            raise ConfigError(f"reward {config.function!r}: a reward model needs a backend to compute it")
        return RewardModelSource(scorer=Scorer(settings, backend, _policy_folder(policy)))
    label = f"reward {component_name(config)!r}"
    user_class = model_reward(config.function, config.arguments, label=label)
    if user_class is not None:
        if config.timeout > 0:
            raise ConfigError(f"{label}: a class with models of its own runs in this process; set timeout: 0")
        return ModelClassSource(
            reward=build_model_reward(user_class, backend, _policy_folder(policy), config.arguments)
        )
    reward = resolve(config.function, config.arguments, label=label)
    runner = Worker(reward, config.timeout) if config.timeout > 0 else InProcess(reward)
    return FunctionSource(reward=reward, runner=runner)


def _policy_folder(policy: str | None) -> Path | None:
    return None if policy is None else find_folder(policy)


def build_model_reward(
    user_class: type[ModelReward], backend: Backend | None, policy_folder: Path | None, arguments: Mapping[str, Any]
) -> ModelReward:
    """Build a class with models of its own as its protocol says; with None for both, nothing is loaded."""
    construct: Callable[..., ModelReward] = user_class
    return construct(backend, policy_folder, **arguments)
