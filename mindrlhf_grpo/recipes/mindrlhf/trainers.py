"""MindRLHF's trainers by their methods: each call makes half a step of the core's online trainer.

This is a facade for scripts that were written for MindRLHF. Arguments and methods that have no meaning here
(``iter_count``, ``rank_id``, ``epoch``, ``set_train``, ...) are kept because those scripts pass and call them; they are
accepted and not read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...backend import load_backend
from ...config.run import RunConfig
from ...errors import ConfigError, RunFailed
from ...trainers import train
from ...trainers.experience import Experience
from ...trainers.online import OnlineTrainer
from ...trainers.preflight import check
from . import given
from .keys import keys, translated
from .packed_rows import Row, pack
from .script_objects import RunFields, combine_config, plain
from .settings import from_values, read_settings, to_settings


class SteppedRun:
    """An online run whose loop belongs to the caller: one call generates completions, the next one learns from them.

    Args:
        notes: lines for the reader about the configuration; rank 0 prints them once.

    Attributes:
        prompt_dataset: number of prompts, and prompts per step.
        experience: completions that have not been learned from yet.

    Raises:
        ConfigError: anything that would stop the run, before weights are loaded.
    """

    def __init__(self, config: RunConfig, notes: Sequence[str] = ()) -> None:
        check(config)
        self.config = config
        self.online = OnlineTrainer(config, load_backend(config))
        self.online.begin()
        for note in notes:
            self.online.session.note(note)
        self.clock = self.online.session.start_clock()
        self.prompt_dataset = PromptCounts(len(self.online.stream), config.train.prompts_per_step)
        self.experience: Experience | None = None

    @property
    def steps_done(self) -> int:
        return self.online.session.progress.step

    def collect(self, name: str, requested: int | None, configured: int) -> None:
        """Generate and score the completions of the next step.

        Args:
            name, requested: the caller's argument for how many; None leaves it to the configuration.
            configured: the number that the trainer was built with.

        Raises:
            ConfigError: the two numbers differ.
            RunFailed: all steps are done.
        """
        if requested is not None and requested != configured:
            raise ConfigError(f"{name} is {requested}: the trainer was built with {configured}")
        if self.steps_done >= self.config.train.steps:
            raise RunFailed(
                f"all {self.steps_done} steps of {self.config.run_dir} are done; a longer run has more epochs"
            )
        self.experience = self.online.collect(self.clock)

    def train(self, network: Network, dataset: Dataset, epoch: int = 0) -> None:
        """Learn from the completions collected last; the last step ends the run.

        Raises:
            ConfigError: another trainer's network, or completions that were learned from already.
        """
        if network.run is not self or dataset.experience is not self.experience or self.experience is None:
            raise ConfigError("train takes this trainer's network and the dataset of its last completions, once")
        experience, self.experience = self.experience, None
        self.online.learn(self.steps_done + 1, experience, self.clock)
        if self.steps_done == self.config.train.steps:
            self.online.close()
            self.online.finish()

    def save_checkpoint(self, rank_id: int = 0, steps: int = 0) -> Path:
        """Write a checkpoint of the last step unless it has one, and return its folder."""
        session = self.online.session
        if not session.folder.checkpoint(self.steps_done).is_dir():
            self.online.gather()
            session.write_checkpoint(self.steps_done, self.online.write)
        return session.folder.checkpoints / f"step_{self.steps_done}"

    def network(self) -> Network:
        """Return a handle on the trained model."""
        return Network(self)

    def dataset(self) -> Dataset:
        """Return the completions collected last; raises ConfigError if there are none."""
        if self.experience is None:
            raise ConfigError("there are no completions to learn from: make_experience comes first")
        return Dataset(self, self.experience)


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """The sizes of a prompt dataset: prompts in all, and prompts per step."""

    size: int
    batch: int

    def get_dataset_size(self) -> int:
        """Return the number of prompts, at least those of a step, so that an epoch has one step."""
        return max(self.size, self.batch)

    def get_batch_size(self) -> int:
        """Return the prompts per step."""
        return self.batch


@dataclass(frozen=True, slots=True)
class Network:
    """A handle on the trained network and its optimizer, which live in the trainer."""

    run: SteppedRun

    def set_train(self, mode: bool = True) -> None:
        """Do nothing: dropout is always off. MindRLHF's scripts call this before they train."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The completions of one step on this rank."""

    run: SteppedRun
    experience: Experience

    def get_dataset_size(self) -> int:
        """Return the number of completions."""
        return len(self.experience.batch)

    def create_dict_iterator(self) -> Iterator[Row]:
        """Yield packed rows of one sample each, see ``packed_rows``."""
        config = self.run.config
        width = config.data.max_prompt_tokens + config.rollout.max_tokens + 1
        yield from pack(self.experience.batch, width=width, samples=1, pad=self.run.online.tokenizer.pad_id)


class GRPOTrainer(SteppedRun):
    """GRPO from objects, or from a file: ``GRPOTrainer(args).run_grpo_train()``, where ``args.config`` is a YAML.

    Raises:
        ConfigError: an unusable configuration; names what is wrong.
    """

    def __init__(
        self,
        args: Any = None,
        *,
        grpo_config: RunFields | None = None,
        sft_model_config_infer: Any = None,
        sft_model_config_train: Any = None,
        ref_model_config: Any = None,
        reward_funcs: Sequence[Callable[..., Any]] = (),
        tokenizer: Any = None,
        config_from_yaml: Any = None,
        no_patch_tensor_shape: Any = None,
    ) -> None:
        if grpo_config is None:
            options = {name: getattr(args, name, None) for name in keys()["options"]}
            file = getattr(args, "config", None)
            self.settings = read_settings(Path(file), options=options) if file else from_values(plain(config_from_yaml))
            return
        combine_config(grpo_config, plain(sft_model_config_infer or sft_model_config_train))
        named = {"reference": plain(ref_model_config or {}).get("checkpoint_name_or_path")}
        named |= {"verifiers": [reward_reference(function) for function in reward_funcs]} if reward_funcs else {}
        if tokenizer is not None:
            named["tokenizer"] = str(Path(tokenizer.vocab_file).parent)
        super().__init__(*config_from_fields(grpo_config, sft_model_config_train, named))

    def run_grpo_train(self) -> dict[str, Any]:
        """Run to the end and return the summary."""
        print("\n".join(self.settings.notes), file=sys.stderr)
        check(self.settings.config)
        return train(self.settings.config)

    def make_experience(self, num_generations: int | None = None, rank_id: int = 0) -> None:
        """Generate and score ``num_generations`` completions for each prompt of the next step."""
        self.collect("num_generations", num_generations, self.config.rollout.group_size)


class PPOTrainer(SteppedRun):
    """PPO: policy, reference, critic and reward model."""

    def __init__(
        self,
        *,
        ppo_config: RunFields,
        sft_model_config: Any,
        ref_model_config: Any = None,
        critic_model_config: Any = None,
        rm_model_config: Any = None,
    ) -> None:
        combine_config(ppo_config, plain(sft_model_config))
        named: dict[str, Any] = {"reference": plain(ref_model_config or {}).get("checkpoint_name_or_path")}
        named |= {"reward_shape": plain(rm_model_config or {}), "critic_shape": plain(critic_model_config or {})}
        super().__init__(*config_from_fields(ppo_config, sft_model_config, named))

    def make_experience(self, num_rollouts: int | None = None, iter_count: int = 0, rank_id: int = 0) -> None:
        """Generate and score ``num_rollouts`` completions."""
        self.collect("num_rollouts", num_rollouts, self.config.train.prompts_per_step)


def init_network_and_optimizer(trainer: SteppedRun) -> Network:
    """Return a handle on the trainer's network."""
    return trainer.network()


def init_ppo_dataset(trainer: SteppedRun) -> Dataset:
    """Return the completions of the last ``make_experience``."""
    return trainer.dataset()


init_grpo_network_and_optimizer, init_grpo_dataset = init_network_and_optimizer, init_ppo_dataset


def config_from_fields(run: RunFields, model: Any, named: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
    """Build our configuration from a run's fields and a model's sizes; returns it with notes on what differs."""
    translation = translated(run.kind, run)
    shape = plain(model)
    translation.values |= {"model": shape.get("checkpoint_name_or_path"), "shape": shape, **named}
    settings = to_settings(run.kind, translation)
    return cast(RunConfig, settings.config), settings.notes


def reward_reference(function: Callable[..., Any]) -> str:
    """Return the name of a reward function in a configuration: our own by its module, a script's through ``given``."""
    if function.__module__.startswith(f"{__package__}."):
        return f"{function.__module__}:{function.__name__}"
    return given.reference_to(function)
