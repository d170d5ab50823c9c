"""The launchers' arguments as a configuration, with a note for each that changes nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat.arguments import choice_of, put_arguments
from ...config.file import Draft
from ...config.parallel import ZERO_STAGES
from ...data.sources import read_rows
from ...errors import ConfigError
from ...run.checkpoint import steps
from .registry import package_data, read_registry

PACKAGE = __package__
Arguments = Mapping[str, Any]


def build_draft(arguments: Arguments, overrides: Sequence[str], note: Callable[[str], None]) -> Draft:
    """Return the configuration of a run; ``note`` is called for arguments that change nothing.

    Raises:
        ConfigError: an argument is missing, or arguments contradict each other.
    """
    draft = Draft({}, "arguments")
    put_arguments(draft, package_data("arguments.yaml"), arguments, note)
    for required in ("pretrain", "prompt_data"):
        if not arguments[required]:
            raise ConfigError(f"--{required} is missing")
    parts = [section(arguments) for section in (data, sizes, rewards, algorithm, memory)]
    for part in [*parts, tracking(arguments, note)]:
        for key, value in part.items():
            draft.put(tuple(key.split(".")), value, "arguments")
    check_resume(Path(str(draft.values["run_dir"])), load=arguments["load_checkpoint"], note=note)
    return draft.with_overrides(overrides)


def data(arguments: Arguments) -> dict[str, Any]:
    """Return the data source, images and frozen weights."""
    keys = {key: arguments[key] for key in ("input_key", "images_key", "reference_key", "label_key", "text_only")}
    source = {"name": f"{PACKAGE}.data:rows", "path": arguments["prompt_data"], **keys, **routed(arguments)}
    settings: dict[str, Any] = {"data.source": source}
    if not arguments["text_only"] and (arguments["mixed_mm_data"] or arguments["limit_mm_image_per_prompt"]):
        settings["data.images"] = {"column": "images", "limit": arguments["limit_mm_image_per_prompt"]}
    if arguments["freeze_prefix"]:
        settings["model.freeze"] = {"prefixes": arguments["freeze_prefix"].split(",")}
    return settings


def routed(arguments: Arguments) -> dict[str, Any]:
    """Return registry and routing, for rows and rewards."""
    read_registry(arguments["reward_pretrain"] or [], engine=arguments["rm_use_engine"], url=arguments["rm_engine_url"])
    models = arguments["reward_pretrain"] or []
    return {"models": models, "routing": arguments["routing"], "on_missing_rm": arguments["on_missing_rm"]}


def sizes(arguments: Arguments) -> dict[str, Any]:
    """Return steps, batches and warm-up; an update takes ``train_batch_size`` completions, a step ``rollout_batch_size`` prompts."""
    samples, batch, rollout = (arguments[k] for k in ("n_samples_per_prompt", "train_batch_size", "rollout_batch_size"))
    if rollout * samples % batch:
        raise ConfigError(
            f"--rollout_batch_size {rollout} times --n_samples_per_prompt {samples} must be a multiple of "
            f"--train_batch_size {batch}"
        )
    step_updates = rollout * samples // batch * arguments["max_epochs"]
    updates = math.ceil(
        arguments["num_episodes"]
        * (len(read_rows(arguments["prompt_data"])) * samples // batch * arguments["max_epochs"])
    )
    count = max(1, math.ceil(updates / step_updates))
    longest = arguments["prompt_max_len"] + arguments["generate_max_len"]
    return {
        "algorithm.updates_per_batch": step_updates // arguments["max_epochs"],
        "train.steps": count,
        "train.warmup_steps": round(arguments["lr_warmup_ratio"] * count),
        "train.tokens_per_micro_batch": arguments["micro_train_batch_size"] * longest,
        "rollout.slots": arguments["micro_rollout_batch_size"] * samples,
    }


def rewards(arguments: Arguments) -> dict[str, Any]:
    """Return the routed reward, the overlong penalty, and the metrics."""
    server = {"engine": arguments["rm_use_engine"], "url": arguments["rm_engine_url"]}
    reward_arguments = {**routed(arguments), **server}
    parts: list[dict[str, Any]] = [
        {"function": f"{PACKAGE}.rewards:RoutedReward", "name": "routed", "arguments": reward_arguments}
    ]
    others: dict[str, Any] = {"metrics": [{"function": f"{PACKAGE}.metrics:metrics"}]}
    if arguments["overlong_buffer"]:
        settings = {"buffer": arguments["overlong_buffer_len"], "factor": arguments["overlong_buffer_penalty_factor"]}
        parts.append({"function": "overlong", "arguments": {"max_tokens": arguments["generate_max_len"], **settings}})
    if arguments["dynamic_sampling"]:
        modes = {"mask": "mask", "resample": "resample"}
        others["algorithm.dead_groups"] = choice_of("dynamic_sampling_mode", arguments["dynamic_sampling_mode"], modes)
        others["algorithm.dead_group_test"] = {"without": ["overlong"] if arguments["overlong_buffer"] else []}
    return {"rewards": parts, **others}


def algorithm(arguments: Arguments) -> dict[str, Any]:
    """Return the settings that differ by estimator, and the bounds of rewards and advantages."""
    estimator, settings = arguments["advantage_estimator"], dict[str, Any]({"algorithm.preset": "lightrft"})
    if arguments["use_cpg_loss"] or arguments["use_gspo"]:
        settings["algorithm.loss"] = "cpgd" if arguments["use_cpg_loss"] else "gspo"
    if estimator in ("gae", "reinforce", "reinforce_baseline"):
        settings["algorithm.returns"] = {"gamma": arguments["gamma"], "lam": arguments["lambd"]}
    if estimator == "gae":
        settings["critic"] = {"learning_rate": arguments["critic_learning_rate"], "value_clip": arguments["value_clip"]}
    scaling = {
        "running_norm": arguments["reward_running_norm"],
        "minus_mean": arguments["reward_running_norm_minus_mean"],
        "reward_clip": arguments["reward_clip"],
        "whiten": arguments["advantages_norm"],
        "advantage_clip": arguments["advantage_clip"],
    }
    return {**settings, "algorithm.scaling": scaling} if any(scaling.values()) else settings


def memory(arguments: Arguments) -> dict[str, Any]:
    """Return DeepSpeed's stages or FSDP as a strategy of the backend; nothing for a single process."""
    if arguments["zero_stage"] not in ZERO_STAGES:
        raise ConfigError(f"--zero_stage is {arguments['zero_stage']}; accepted: {', '.join(map(str, ZERO_STAGES))}")
    strategy = "fsdp" if arguments["fsdp"] else ZERO_STAGES[arguments["zero_stage"]]
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1 and strategy != "replicate"
    return {"parallel": {"strategy": strategy, "offload": arguments["adam_offload"]}} if shared else {}


def tracking(arguments: Arguments, note: Callable[[str], None]) -> dict[str, Any]:
    """Return Weights & Biases as tracker where it is requested and installed; metrics.jsonl always has the same metrics."""
    modes = {"online": ["wandb"], "offline": ["wandb-offline"], "disabled": []}
    trackers = choice_of("wandb_mode", arguments["wandb_mode"], modes)
    if not arguments["use_wandb"] and arguments["wandb_mode"] != "offline":
        return {}
    os.environ.setdefault("WANDB_PROJECT", arguments["wandb_project"])
    if arguments["wandb_run_name"]:
        os.environ.setdefault("WANDB_NAME", arguments["wandb_run_name"])
    if trackers and not find_spec("wandb"):
        note("wandb is not installed: the same figures are in metrics.jsonl")
        return {}
    return {"tracking.to": trackers}


def check_resume(run_dir: Path, *, load: bool, note: Callable[[str], None]) -> None:
    """Raise ConfigError where a run would resume without ``--load_checkpoint``; note where there is nothing to load."""
    saved = steps(run_dir / "checkpoints")
    if saved and not load:
        raise ConfigError(
            f"--save_path {run_dir} holds a run with {saved[-1]} steps; give --load_checkpoint to go on, or another path"
        )
    if load and not saved:
        note(f"--load_checkpoint: {run_dir} holds no checkpoint yet, so the run starts from the beginning")
