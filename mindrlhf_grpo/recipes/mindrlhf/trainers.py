"""MindRLHF's trainers by their methods: each call makes half a step of the core's online trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ...config.run import RunConfig
from ...trainers import train
from ...trainers.preflight import check
from . import given
from .fields import RunFields, combine_config, plain
from .settings import from_values, read_settings, settings_of
from .stepwise import Dataset, Network, Stepwise
from .tables import keys, translated


class GRPOTrainer(Stepwise):
    """From objects, or from a file: ``GRPOTrainer(args).run_grpo_train()``, where ``args.config`` is a YAML.

    Raises:
        ConfigError: a configuration that cannot be used; names what is wrong.
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
        named |= {"verifiers": [reference_of(function) for function in reward_funcs]} if reward_funcs else {}
        if tokenizer is not None:
            named["tokenizer"] = str(Path(tokenizer.vocab_file).parent)
        super().__init__(*of_fields(grpo_config, sft_model_config_train, named))

    def run_grpo_train(self) -> dict[str, Any]:
        """The whole run; returns its summary."""
        print("\n".join(self.settings.notes), file=sys.stderr)
        check(self.settings.config)
        return train(self.settings.config)

    def make_experience(self, num_generations: int | None = None, rank_id: int = 0) -> None:
        """Generate, score and weigh ``num_generations`` completions for each prompt of the next step."""
        self.collect({"num_generations": (num_generations, self.config.rollout.group_size)})


class PPOTrainer(Stepwise):
    """Policy, reference, critic and reward model."""

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
        super().__init__(*of_fields(ppo_config, sft_model_config, named))

    def make_experience(self, num_rollouts: int | None = None, iter_count: int = 0, rank_id: int = 0) -> None:
        """Generate and score ``num_rollouts`` completions."""
        self.collect({"num_rollouts": (num_rollouts, self.config.train.prompts_per_step)})


def init_network_and_optimizer(trainer: Stepwise) -> Network:
    """A handle on the trainer's network."""
    return trainer.network()


def init_ppo_dataset(trainer: Stepwise) -> Dataset:
    """The completions of the last ``make_experience``."""
    return trainer.dataset()


init_grpo_network_and_optimizer, init_grpo_dataset = init_network_and_optimizer, init_ppo_dataset


def of_fields(run: RunFields, model: Any, named: Mapping[str, Any]) -> tuple[RunConfig, tuple[str, ...]]:
    """Our configuration of a run's fields and a model's sizes, and what is otherwise than it was written."""
    found = translated(run.kind, run)
    shape = plain(model)
    found.values |= {"model": shape.get("checkpoint_name_or_path"), "shape": shape, **named}
    settings = settings_of(run.kind, found)
    return cast(RunConfig, settings.config), settings.notes


def reference_of(function: Callable[..., Any]) -> str:
    """How a configuration names a function: ours by its module, a caller's through the module ``given``."""
    if function.__module__.startswith(f"{__package__}."):
        return f"{function.__module__}:{function.__name__}"
    setattr(given, function.__name__, function)
    return f"{given.__name__}:{function.__name__}"
