"""The arguments of ``train`` as a configuration: ``arguments.yaml`` maps them, ``run.yaml`` holds the fixed settings."""

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
PARTS = {"grpo": [0], "gdpo": [1, 2]}  # places in the rewards of run.yaml
COUNT = 3
RATE_STEP, RATE_SMALL, RATE = 8000, 1e-6, 1e-7


def table(name: str) -> Any:
    """Return the content of a YAML file of this recipe."""
    return parse((files(__package__) / name).read_text(encoding="utf-8")).value


def read(words: Sequence[str]) -> dict[str, Any]:
    """Read the arguments; unset weights come from the preset."""
    arguments = read_script_arguments("mindrlhf-grpo recipe safe-rank train", words, table("arguments.yaml"))
    weight = PRESETS[arguments["preset"]]
    return arguments | {name: weight for name in ("lambda_safe", "penalty_safe") if arguments[name] is None}


def build_draft(arguments: dict[str, Any], policy: str) -> Draft:
    """Return the configuration that the arguments ask for, with ``policy`` as its model.

    Raises:
        ConfigError: arguments that contradict each other.
    """
    world, group = launched_processes(), arguments["num_generations"]
    completions = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * world
    if completions % group:
        raise ConfigError(f"--num_generations {group} does not divide the {completions} completions of a step")
    parallel = arguments["vllm_tensor_parallel_size"]
    if arguments["use_vllm"] and parallel != world:
        raise ConfigError(f"--vllm_tensor_parallel_size is {parallel}; it must be the number of processes, {world}")
    draft = Draft(table("run.yaml"), "arguments")
    put_arguments(draft, table("arguments.yaml"), arguments)
    prompts = completions // group
    epoch_steps = max(1, len(rows(arguments["train_path"])) // prompts)
    asked, longest = arguments["max_steps"], arguments["max_prompt_length"] + arguments["max_completion_length"]
    saved = {"steps": arguments["save_steps"], "epoch": epoch_steps, "no": 0}[arguments["save_strategy"]]
    held_out = arguments["eval_path"] or split_path(arguments["train_path"], "validation")
    values = draft.values
    values |= {"run_dir": str(run_folder(arguments)), "rewards": choose_rewards(arguments, values["rewards"])}
    values["model"] |= {"path": policy, "dtype": "bfloat16" if arguments["bf16"] else "float32"}
    values["model"] |= {} if arguments["use_lora"] else {"lora_rank": 0}
    values["train"] |= {
        "steps": asked if asked > 0 else max(1, int(epoch_steps * arguments["num_train_epochs"])),
        "prompts_per_step": prompts,
        "schedule": {RATE_STEP: RATE_SMALL if "0.5b" in arguments["model_name"].lower() else RATE},
        "tokens_per_micro_batch": arguments["per_device_train_batch_size"] * longest,
    }
    values["checkpoint"]["every"] = saved
    if held_out is not None:
        values["eval"] = {"source": {**values["data"]["source"], "path": held_out}, "every": saved}
    if find_spec("wandb") is not None:
        os.environ.setdefault("WANDB_PROJECT", arguments["wandb_project"])
        values["tracking"] = {"to": ["wandb" if os.environ.get("WANDB_API_KEY") else "wandb-offline"]}
    return draft


def choose_rewards(arguments: dict[str, Any], all_rewards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sum as one reward, or relevance and safety separately for gdpo; and the count where it has a weight."""
    places = PARTS[arguments["advantage_mode"]] + [COUNT] * bool(arguments["lambda_count"])
    weights = arguments["reward_weights"] or [1.0] * len(places)
    if len(weights) != len(places):
        raise ConfigError(f"--reward_weights has {len(weights)} numbers, and there are {len(places)} rewards")
    return [{**all_rewards[place], "weight": weight} for place, weight in zip(places, weights, strict=True)]


def run_folder(arguments: dict[str, Any]) -> Path:
    """Return the run folder: the explicit one, else one named after the settings."""
    lora = f"_lora{arguments['lora_r']}" if arguments["use_lora"] else ""
    name = (
        "safe_rank_{advantage_mode}_{reward_func}"
        + lora
        + "_lr{lr:g}_kl{kl_beta:g}_mu{mu}_lambda{lambda_safe:g}_penalty{penalty_safe:g}"
    ).format(**arguments)
    return Path(arguments["output_dir"] or Path("results") / arguments["model_name"] / name)


def notes(arguments: dict[str, Any]) -> list[str]:
    """Return a line for each argument that has another effect here than in the original script."""
    lines = {
        f"--optim {arguments['optim']} is not there: AdamW with 32-bit state is used": not arguments["optim"].startswith("adamw"),
        "--use_vllm: lists come from the backend's own engine; only the number of processes is checked": arguments["use_vllm"],
        f"--lora_dropout {arguments['lora_dropout']:g} is not applied: ratios need log-probs without dropout":
            arguments["use_lora"] and arguments["lora_dropout"] > 0,
    }  # fmt: skip
    return [text for text, holds in lines.items() if holds]
