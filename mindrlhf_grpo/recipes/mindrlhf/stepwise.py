"""An online run whose loop is the caller's: completions by one call, the update by the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backend import load_backend
from ...config.run import RunConfig
from ...errors import ConfigError, RunFailed
from ...run import checkpoint
from ...trainers.experience import Experience
from ...trainers.online import OnlineTrainer
from ...trainers.preflight import check
from .packed_rows import Row, pack


class Stepwise:
    """The two halves of an online trainer's step.

    Args:
        notes: what a reader has to know of the configuration; said once, by rank 0.

    Attributes:
        prompt_dataset: how many prompts there are, and how many of them a step takes.
        experience: completions that wait to be learned from.

    Raises:
        ConfigError: what would stop the run, before weights are loaded.
    """

    def __init__(self, config: RunConfig, notes: Sequence[str] = ()) -> None:
        check(config)
        self.config = config
        self.online = OnlineTrainer(config, load_backend(config))
        self.online.begin()
        for note in notes:
            self.online.session.tracker.note(note)
        self.prompt_dataset = Sizes(len(self.online.stream), config.train.prompts_per_step)
        self.experience: Experience | None = None

    @property
    def done(self) -> int:
        """Steps made so far."""
        return self.online.session.progress.step

    def collect(self, asked: Mapping[str, tuple[int | None, int]]) -> None:
        """Completions of the next step; ``asked`` holds what the caller wants and what the configuration says.

        Raises:
            ConfigError: they differ.
            RunFailed: all steps are done.
        """
        for name, (given, configured) in asked.items():
            if given is not None and given != configured:
                raise ConfigError(f"{name} is {given}: the trainer was built with {configured}")
        if self.done >= self.config.train.steps:
            raise RunFailed(f"all {self.done} steps of {self.config.run_dir} are done; a longer run has more epochs")
        self.experience = self.online.collect()

    def train(self, network: Network, dataset: Dataset, epoch: int = 0) -> None:
        """Learn from the completions collected last; the last step ends the run.

        Raises:
            ConfigError: another trainer's network, or completions that were learned from already.
        """
        if network.loop is not self or dataset.experience is not self.experience or self.experience is None:
            raise ConfigError("train takes this trainer's network and the dataset of its last completions, once")
        experience, self.experience = self.experience, None
        self.online.learn(self.done + 1, experience)
        if self.done == self.config.train.steps:
            self.online.close()
            self.online.finish()

    def save_checkpoint(self, rank_id: int = 0, steps: int = 0) -> Path:
        """Write a checkpoint of the step that was made last, if there is none yet; its folder."""
        session = self.online.session
        if self.done not in checkpoint.steps(session.folder.checkpoints):
            self.online.gather()
            session.write_checkpoint(self.done, self.online.write)
        return session.folder.checkpoints / f"step_{self.done}"

    def network(self) -> Network:
        """A handle on what is trained."""
        return Network(self)

    def dataset(self) -> Dataset:
        """The completions collected last; raises ConfigError if there are none."""
        if self.experience is None:
            raise ConfigError("there are no completions to learn from: make_experience comes first")
        return Dataset(self, self.experience)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a prompt dataset says of itself: prompts, and prompts of a step."""

    size: int
    batch: int

    def get_dataset_size(self) -> int:
        """Prompts; at least those of a step, so that an epoch has one."""
        return max(self.size, self.batch)

    def get_batch_size(self) -> int:
        """Prompts of a step."""
        return self.batch


@dataclass(frozen=True, slots=True)
class Network:
    """The trained network with its optimizer: they live in the trainer."""

    loop: Stepwise

    def set_train(self, mode: bool = True) -> None:
        """Nothing to do: dropout is always off."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The completions of one step on this rank."""

    loop: Stepwise
    experience: Experience

    def get_dataset_size(self) -> int:
        """How many there are."""
        return len(self.experience.batch)

    def create_dict_iterator(self) -> Iterator[Row]:
        """As packed rows of one sample, see ``packed_rows``."""
        config = self.loop.config
        width = config.data.max_prompt_tokens + config.rollout.max_tokens + 1
        yield from pack(self.experience.batch, width=width, samples=1, pad=self.loop.online.tokenizer.pad_id)
