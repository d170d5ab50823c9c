"""The launchers' arguments as a configuration, with one note on those that change nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat.arguments import choice_of, put_arguments, without_effect
from ...config.file import Draft
from ...config.parallel import ZERO_STAGES
from ...data.sources import read_rows
from ...errors import ConfigError
from ...model_files.checkpoint_folders import steps
from .data import source_of
from .registry import package_data, read_registry, read_routing, unfolded

PACKAGE = __package__
VISION = "visual"  # begins the names of the vision tower's weights in Qwen2.5-VL
WANDB = {"wandb_project": "WANDB_PROJECT", "wandb_run_name": "WANDB_NAME", "wandb_org": "WANDB_ENTITY", "wandb_group": "WANDB_RUN_GROUP"}  # fmt: skip
LAST_RATE = 0.1  # of the learning rate, at which the original's cosine ends
ALL_ROWS = 1_000_000  # the default of --max_samples
OFF = ("", "false", "none")  # an argument of Weights & Biases or TensorBoard that means no
Arguments = Mapping[str, Any]


def build_draft(arguments: Arguments, overrides: Sequence[str], note: Callable[[str], None]) -> Draft:
    """Return the configuration of a run; ``note`` is called with one line on arguments that change nothing.

    Raises:
        ConfigError: an argument is missing or has no counterpart, or arguments contradict each other.
    """
    draft = Draft({}, "arguments")
    put_arguments(draft, package_data("arguments.yaml"), arguments, note)
    for required in ("pretrain", "prompt_data"):
        if not arguments[required]:
            raise ConfigError(f"--{required} is missing")
    parts = [section(arguments) for section in (data, held_out, adapters, sizes, rewards, algorithm)]
    for part in [*parts, memory(arguments, note), tracking(arguments, note)]:
        for key, value in part.items():
            draft.put(tuple(key.split(".")), value, "arguments")
    check_resume(Path(str(draft.values["run_dir"])), load=arguments["load_checkpoint"], note=note)
    return draft.with_overrides(overrides)


def data(arguments: Arguments) -> dict[str, Any]:
    """Return the data source, images and frozen weights."""
    settings: dict[str, Any] = {"data.source": rows_of(arguments, "prompt_data", "prompt_split", "max_samples")}
    limit = max(arguments["limit_mm_image_per_prompt"], 0)  # -1: any number
    if not arguments["text_only"] and (arguments["mixed_mm_data"] or limit):
        settings["data.images"] = {"column": "images", "limit": limit}
    prefixes = (arguments["freeze_prefix"] or "").split(",")
    if arguments["text_only"]:  # a launch script may freeze the vision tower of a model that has none
        prefixes = [prefix for prefix in prefixes if prefix != VISION]
    if any(prefixes):
        settings["model.freeze"] = {"prefixes": prefixes}
    return settings


def rows_of(arguments: Arguments, path: str, split: str, limit: str) -> dict[str, Any]:
    """Return the source of rows that the arguments of these names describe."""
    keys = {key: arguments[key] for key in ("input_key", "images_key", "reference_key", "label_key", "text_only")}
    source = {"name": f"{PACKAGE}.data:rows", "path": arguments[path], **keys, **routed(arguments)}
    if arguments[split]:
        source["split"] = arguments[split]
    return source if arguments[limit] >= ALL_ROWS else {**source, "limit": arguments[limit]}


def held_out(arguments: Arguments) -> dict[str, Any]:
    """Return the evaluation, where there is data for it."""
    if not arguments["eval_data"]:
        return {}
    source = rows_of(arguments, "eval_data", "eval_split", "max_eval_samples")
    return {"eval.source": source, "eval.every": max(arguments["eval_steps"], 0)}


def adapters(arguments: Arguments) -> dict[str, Any]:
    """Return the settings of LoRA, where it has a rank."""
    if not arguments["lora_rank"]:
        return {}
    names = arguments["target_modules"]
    return {
        "model.lora_rank": arguments["lora_rank"],
        "model.lora_alpha": arguments["lora_alpha"],
        "model.lora_targets": names[0] if names == ["all-linear"] else names,
    }


def routed(arguments: Arguments) -> dict[str, Any]:
    """Return registry and routing, for rows and rewards: what a file holds becomes part of the configuration."""
    models = unfolded(arguments["reward_pretrain"] or [], "--reward_pretrain")
    read_registry(models, engine=arguments["rm_use_engine"], url=arguments["rm_engine_url"])
    read_routing(arguments["routing"])
    routing = unfolded(arguments["routing"], "--routing")
    return {"models": models, "routing": routing, "on_missing_rm": arguments["on_missing_rm"]}


def sizes(arguments: Arguments) -> dict[str, Any]:
    """Return steps, batches and learning rates; an update takes ``train_batch_size`` completions, a step ``rollout_batch_size`` prompts."""
    samples, batch, rollout = (arguments[k] for k in ("n_samples_per_prompt", "train_batch_size", "rollout_batch_size"))
    if rollout * samples % batch:
        raise ConfigError(
            f"--rollout_batch_size {rollout} times --n_samples_per_prompt {samples} must be a multiple of "
            f"--train_batch_size {batch}"
        )
    step_updates = rollout * samples // batch * arguments["max_epochs"]
    rows = read_rows(source_of(arguments["prompt_data"], arguments["prompt_split"]))
    prompts = min(len(rows), arguments["max_samples"])
    updates = math.ceil(arguments["num_episodes"] * (prompts * samples // batch * arguments["max_epochs"]))
    count = max(1, math.ceil(updates / step_updates))
    longest = arguments["prompt_max_len"] + arguments["generate_max_len"]
    return {
        "algorithm.updates_per_batch": step_updates // arguments["max_epochs"],
        "train.steps": count,
        "train.schedule": "cosine",
        "train.min_learning_rate": LAST_RATE * arguments["actor_learning_rate"],
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
    metrics = {
        "function": f"{PACKAGE}.metrics:metrics",
        "arguments": {"dynamic_sampling": arguments["dynamic_sampling"]},
    }
    others: dict[str, Any] = {"metrics": [metrics]}
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
        settings["critic"] |= {"path": arguments["critic_pretrain"]} if arguments["critic_pretrain"] else {}
    scaling = {
        "running_norm": arguments["reward_running_norm"],
        "minus_mean": arguments["reward_running_norm_minus_mean"],
        "reward_clip": arguments["reward_clip"],
        "whiten": arguments["advantages_norm"],
        "advantage_clip": arguments["advantage_clip"],
    }
    return {**settings, "algorithm.scaling": scaling} if any(scaling.values()) else settings


def memory(arguments: Arguments, note: Callable[[str], None]) -> dict[str, Any]:
    """Return DeepSpeed's stages or FSDP as a strategy of the backend; a single process, which shares nothing, is told so."""
    if arguments["zero_stage"] not in ZERO_STAGES:
        raise ConfigError(f"--zero_stage is {arguments['zero_stage']}; accepted: {', '.join(map(str, ZERO_STAGES))}")
    strategy = "fsdp" if arguments["fsdp"] else ZERO_STAGES[arguments["zero_stage"]]
    offload = arguments["adam_offload"] or arguments["fsdp_cpu_offload"]
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if shared and strategy != "replicate":
        return {"parallel": {"strategy": strategy, "offload": offload}}
    asked = [name for name in ("fsdp", "zero_stage", "adam_offload", "fsdp_cpu_offload") if arguments[name]]
    if arguments["fsdp"] or offload:  # --zero_stage alone is the default
        why = "nothing is shared out at stage 0" if shared else "a single process has no others to share weights with"
        note(without_effect(dict.fromkeys(asked, why)))
    return {}


def tracking(arguments: Arguments, note: Callable[[str], None]) -> dict[str, Any]:
    """Return the trackers that are asked for; metrics.jsonl always has the same metrics.

    Any text after ``--use_wandb`` turns Weights & Biases on: there it is the key, which is read from WANDB_API_KEY here
    and kept nowhere. ``--wandb_mode``, else WANDB_MODE, says how it sends.
    """
    modes = {"online": ["wandb"], "offline": ["wandb-offline"], "dryrun": ["wandb-offline"], "disabled": []}
    mode = arguments["wandb_mode"] or os.environ.get("WANDB_MODE") or "online"
    trackers = choice_of("wandb_mode", mode, modes)
    if not is_on(arguments["use_wandb"]) and arguments["wandb_mode"] not in ("offline", "dryrun"):
        trackers = []
    if trackers and not find_spec("wandb"):
        note("wandb is not installed: the same figures are in metrics.jsonl")
        trackers = []
    for name, variable in WANDB.items():
        if arguments[name]:
            os.environ[variable] = arguments[name]
    trackers = trackers + ["tensorboard"] * is_on(arguments["use_tensorboard"])
    return {"tracking.to": trackers} if trackers else {}


def is_on(value: str | None) -> bool:
    """Return whether an argument that may hold a key or a path asks for its tracker."""
    return value is not None and value.lower() not in OFF


def check_resume(run_dir: Path, *, load: bool, note: Callable[[str], None]) -> None:
    """Raise ConfigError where a run would resume without ``--load_checkpoint``; note where there is nothing to load."""
    saved = steps(run_dir / "checkpoints")
    if saved and not load:
        raise ConfigError(
            f"--save_path {run_dir} holds a run with {saved[-1]} steps; give --load_checkpoint to go on, or another path"
        )
    if load and not saved:
        note(f"--load_checkpoint: {run_dir} holds no checkpoint yet, so the run starts from the beginning")
