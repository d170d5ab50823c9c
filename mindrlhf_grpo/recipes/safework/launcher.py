"""From the launchers' arguments to a configuration, and what has no counterpart."""

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


def draft_of(given: Arguments, overrides: Sequence[str], note: Callable[[str], None]) -> Draft:
    """The configuration of a run; ``note`` is told what changes nothing.

    Raises:
        ConfigError: an argument is missing, or arguments do not go together.
    """
    draft = Draft({}, "arguments")
    put_arguments(draft, package_data("arguments.yaml"), given, note)
    for required in ("pretrain", "prompt_data"):
        if not given[required]:
            raise ConfigError(f"--{required} is missing")
    parts = [section(given) for section in (data, sizes, rewards, algorithm, memory)]
    for part in [*parts, tracking(given, note)]:
        for key, value in part.items():
            draft.put(tuple(key.split(".")), value, "arguments")
    resumable(Path(str(draft.values["run_dir"])), load=given["load_checkpoint"], note=note)
    return draft.with_overrides(overrides)


def data(given: Arguments) -> dict[str, Any]:
    """Where rows come from, and their images."""
    keys = {key: given[key] for key in ("input_key", "images_key", "reference_key", "label_key", "text_only")}
    source = {"name": f"{PACKAGE}.data:rows", "path": given["prompt_data"], **keys, **routed(given)}
    found: dict[str, Any] = {"data.source": source}
    if not given["text_only"] and (given["mixed_mm_data"] or given["limit_mm_image_per_prompt"]):
        found["data.images"] = {"column": "images", "limit": given["limit_mm_image_per_prompt"]}
    if given["freeze_prefix"]:
        found["model.freeze"] = {"prefixes": given["freeze_prefix"].split(",")}
    return found


def routed(given: Arguments) -> dict[str, Any]:
    """Registry and routing, for rows and rewards."""
    read_registry(given["reward_pretrain"] or [], engine=given["rm_use_engine"], url=given["rm_engine_url"])
    models = given["reward_pretrain"] or []
    return {"models": models, "routing": given["routing"], "on_missing_rm": given["on_missing_rm"]}


def sizes(given: Arguments) -> dict[str, Any]:
    """Steps, batches and warm-up: an update takes ``train_batch_size`` completions, a step ``rollout_batch_size`` prompts."""
    samples, batch, rollout = (given[k] for k in ("n_samples_per_prompt", "train_batch_size", "rollout_batch_size"))
    if rollout * samples % batch:
        raise ConfigError(
            f"--rollout_batch_size {rollout} times --n_samples_per_prompt {samples} must be a multiple of "
            f"--train_batch_size {batch}"
        )
    each = rollout * samples // batch * given["max_epochs"]
    updates = math.ceil(
        given["num_episodes"] * (len(read_rows(given["prompt_data"])) * samples // batch * given["max_epochs"])
    )
    count = max(1, math.ceil(updates / each))
    longest = given["prompt_max_len"] + given["generate_max_len"]
    return {
        "algorithm.updates_per_batch": each // given["max_epochs"],
        "train.steps": count,
        "train.warmup_steps": round(given["lr_warmup_ratio"] * count),
        "train.tokens_per_micro_batch": given["micro_train_batch_size"] * longest,
        "rollout.slots": given["micro_rollout_batch_size"] * samples,
    }


def rewards(given: Arguments) -> dict[str, Any]:
    """The routed reward, an overlong penalty beside it, and metrics."""
    server = {"engine": given["rm_use_engine"], "url": given["rm_engine_url"]}
    arguments = {**routed(given), **server}
    parts: list[dict[str, Any]] = [
        {"function": f"{PACKAGE}.rewards:RoutedReward", "name": "routed", "arguments": arguments}
    ]
    found: dict[str, Any] = {"metrics": [{"function": f"{PACKAGE}.metrics:metrics"}]}
    if given["overlong_buffer"]:
        settings = {"buffer": given["overlong_buffer_len"], "factor": given["overlong_buffer_penalty_factor"]}
        parts.append({"function": "overlong", "arguments": {"max_tokens": given["generate_max_len"], **settings}})
    if given["dynamic_sampling"]:
        modes = {"mask": "mask", "resample": "resample"}
        found["algorithm.dead_groups"] = choice_of("dynamic_sampling_mode", given["dynamic_sampling_mode"], modes)
        found["algorithm.dead_group_test"] = {"without": ["overlong"] if given["overlong_buffer"] else []}
    return {"rewards": parts, **found}


def algorithm(given: Arguments) -> dict[str, Any]:
    """What differs by estimator, and bounds of rewards and advantages."""
    estimator, found = given["advantage_estimator"], dict[str, Any]({"algorithm.preset": "lightrft"})
    if given["use_cpg_loss"] or given["use_gspo"]:
        found["algorithm.loss"] = "cpgd" if given["use_cpg_loss"] else "gspo"
    if estimator in ("gae", "reinforce", "reinforce_baseline"):
        found["algorithm.returns"] = {"gamma": given["gamma"], "lam": given["lambd"]}
    if estimator == "gae":
        found["critic"] = {"learning_rate": given["critic_learning_rate"], "value_clip": given["value_clip"]}
    scaling = {
        "running_norm": given["reward_running_norm"], "minus_mean": given["reward_running_norm_minus_mean"],
        "reward_clip": given["reward_clip"], "whiten": given["advantages_norm"], "advantage_clip": given["advantage_clip"],
    }  # fmt: skip
    return {**found, "algorithm.scaling": scaling} if any(scaling.values()) else found


def memory(given: Arguments) -> dict[str, Any]:
    """DeepSpeed's stages and FSDP as strategies of the backend; one process has nothing to share out."""
    if given["zero_stage"] not in ZERO_STAGES:
        raise ConfigError(f"--zero_stage is {given['zero_stage']}; accepted: {', '.join(map(str, ZERO_STAGES))}")
    strategy = "fsdp" if given["fsdp"] else ZERO_STAGES[given["zero_stage"]]
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1 and strategy != "replicate"
    return {"parallel": {"strategy": strategy, "offload": given["adam_offload"]}} if shared else {}


def tracking(given: Arguments, note: Callable[[str], None]) -> dict[str, Any]:
    """Weights & Biases where it is asked for and installed; metrics.jsonl holds the same figures always."""
    modes = {"online": ["wandb"], "offline": ["wandb-offline"], "disabled": []}
    wanted = choice_of("wandb_mode", given["wandb_mode"], modes)
    if not given["use_wandb"] and given["wandb_mode"] != "offline":
        return {}
    os.environ.setdefault("WANDB_PROJECT", given["wandb_project"])
    if given["wandb_run_name"]:
        os.environ.setdefault("WANDB_NAME", given["wandb_run_name"])
    if wanted and not find_spec("wandb"):
        note("wandb is not installed: the same figures are in metrics.jsonl")
        return {}
    return {"tracking.to": wanted}


def resumable(run_dir: Path, *, load: bool, note: Callable[[str], None]) -> None:
    """Raise ConfigError where a run would go on without ``--load_checkpoint``; say where there is nothing to load."""
    saved = steps(run_dir / "checkpoints")
    if saved and not load:
        raise ConfigError(
            f"--save_path {run_dir} holds a run with {saved[-1]} steps; give --load_checkpoint to go on, or another path"
        )
    if load and not saved:
        note(f"--load_checkpoint: {run_dir} holds no checkpoint yet, so the run starts from the beginning")
