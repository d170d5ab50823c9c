"""The arguments of ``train`` as a configuration: ``arguments.yaml`` says what each stands for, ``run.yaml`` what is fixed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...compat.arguments import put_arguments, read_script_arguments
from ...config.file import Draft
from ...config.yaml_source import parse
from ...errors import ConfigError
from ...trainers.stages import launched_processes
from .data import rows, split_path

PRESETS = {"balanced": 1.0, "safety": 2.0, "quality": 0.5}
PARTS = {"grpo": [0], "gdpo": [1, 2]}  # of the rewards in run.yaml
COUNT = 3
RATE_STEP, RATE_SMALL, RATE = 8000, 1e-6, 1e-7


def table(name: str) -> Any:
    """A YAML file of this recipe."""
    return parse((files(__package__) / name).read_text(encoding="utf-8")).value


def read(arguments: Sequence[str]) -> dict[str, Any]:
    """The arguments; weights that were not given are the preset's."""
    given = read_script_arguments("mindrlhf-grpo recipe safe-rank train", arguments, table("arguments.yaml"))
    weight = PRESETS[given["preset"]]
    return given | {name: weight for name in ("lambda_safe", "penalty_safe") if given[name] is None}


def draft_of(given: dict[str, Any], policy: str) -> Draft:
    """The configuration that the arguments ask for, with ``policy`` as its model.

    Raises:
        ConfigError: arguments that do not go together.
    """
    world, group = launched_processes(), given["num_generations"]
    completions = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] * world
    if completions % group:
        raise ConfigError(f"--num_generations {group} does not divide the {completions} completions of a step")
    parallel = given["vllm_tensor_parallel_size"]
    if given["use_vllm"] and parallel != world:
        raise ConfigError(f"--vllm_tensor_parallel_size is {parallel}; it must be the number of processes, {world}")
    draft = Draft(table("run.yaml"), "arguments")
    put_arguments(draft, table("arguments.yaml"), given)
    prompts = completions // group
    an_epoch = max(1, len(rows(given["train_path"])) // prompts)
    asked, longest = given["max_steps"], given["max_prompt_length"] + given["max_completion_length"]
    saved = {"steps": given["save_steps"], "epoch": an_epoch, "no": 0}[given["save_strategy"]]
    held_out = given["eval_path"] or split_path(given["train_path"], "validation")
    values = draft.values
    values |= {"run_dir": str(output_of(given)), "rewards": rewards_of(given, values["rewards"])}
    values["model"] |= {"path": policy, "dtype": "bfloat16" if given["bf16"] else "float32"}
    values["model"] |= {} if given["use_lora"] else {"lora_rank": 0}
    values["train"] |= {
        "steps": asked if asked > 0 else max(1, int(an_epoch * given["num_train_epochs"])),
        "prompts_per_step": prompts,
        "schedule": {RATE_STEP: RATE_SMALL if "0.5b" in given["model_name"].lower() else RATE},
        "tokens_per_micro_batch": given["per_device_train_batch_size"] * longest,
    }
    values["checkpoint"]["every"] = saved
    if held_out is not None:
        values["eval"] = {"source": {**values["data"]["source"], "path": held_out}, "every": saved}
    if find_spec("wandb") is not None:
        os.environ.setdefault("WANDB_PROJECT", given["wandb_project"])
        values["tracking"] = {"to": ["wandb" if os.environ.get("WANDB_API_KEY") else "wandb-offline"]}
    return draft


def rewards_of(given: dict[str, Any], all_rewards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sum as one reward, or relevance and safety apart for gdpo; and the count where it has a weight."""
    places = PARTS[given["advantage_mode"]] + [COUNT] * bool(given["lambda_count"])
    weights = given["reward_weights"] or [1.0] * len(places)
    if len(weights) != len(places):
        raise ConfigError(f"--reward_weights has {len(weights)} numbers, and there are {len(places)} rewards")
    return [{**all_rewards[place], "weight": weight} for place, weight in zip(places, weights, strict=True)]


def output_of(given: dict[str, Any]) -> Path:
    """The run's folder: as asked for, or named by the settings."""
    lora = f"_lora{given['lora_r']}" if given["use_lora"] else ""
    name = (
        "safe_rank_{advantage_mode}_{reward_func}" + lora + "_lr{lr:g}_kl{kl_beta:g}_mu{mu}_lambda{lambda_safe:g}_penalty{penalty_safe:g}"
    ).format(**given)  # fmt: skip
    return Path(given["output_dir"] or Path("results") / given["model_name"] / name)


def notes(given: dict[str, Any]) -> list[str]:
    """What of the arguments happens in another way here."""
    told = {
        f"--optim {given['optim']} is not there: AdamW with 32-bit state is used": not given["optim"].startswith("adamw"),
        "--use_vllm: lists come from the backend's own engine; only the number of processes is checked": given["use_vllm"],
        f"--lora_dropout {given['lora_dropout']:g} is not applied: ratios need log-probs without dropout":
            given["use_lora"] and given["lora_dropout"] > 0,
    }  # fmt: skip
    return [text for text, holds in told.items() if holds]
