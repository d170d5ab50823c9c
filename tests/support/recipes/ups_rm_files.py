"""Tiny models and files of the UPS-RM recipe, made by its example; commands and runs in this process."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_grpo.cli.recipe import run_recipe
from mindrlhf_grpo.model_files.value_head import ValueHead
from mindrlhf_grpo.recipes.ups_rm.head_files import named_head, write_head
from mindrlhf_grpo.recipes.ups_rm.reward_model import merge
from tests.support import tiny
from tests.support.repository import ROOT
from tests.support.seeds import shifted

EXAMPLE = ROOT / "examples" / "ups_rm"
TINY = EXAMPLE / "tiny.yaml"


def make(folder: Path) -> Path:
    """Make policy, body and raw data."""
    spec = importlib.util.spec_from_file_location("ups_rm_make_data", EXAMPLE / "make_data.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.make(folder, seed=shifted())
    return made


def random_head(widths: tuple[int, ...] = (8, 4), hidden: int = 48, seed: int = 0) -> ValueHead:
    """Return a random head whose scores spread over some units."""
    draw = np.random.default_rng(seed)
    sizes = [hidden, *widths, 1]
    tensors: dict[str, Any] = {}
    for place, (before, after) in enumerate(itertools.pairwise(sizes)):
        name = f"score.{2 * place}" if widths else "score"
        tensors[f"{name}.weight"] = (draw.standard_normal((after, before)) / np.sqrt(before)).astype(np.float32)
        tensors[f"{name}.bias"] = (draw.standard_normal(after) / 4).astype(np.float32)
    return ValueHead(tensors=tensors, activation="leaky_relu")


def with_random_head(folder: Path, widths: tuple[int, ...] = (8, 4)) -> Path:
    """Write a reward model to ``rm`` beside the ``body`` of a folder."""
    write_head(folder / "random.safetensors", random_head(widths), named_head("myrm"))
    merge(str(folder / "body"), folder / "random.safetensors", folder / "rm")
    return folder / "rm"


def trained(folder: Path) -> Path:
    """Make everything that the training needs: prepared prompts and a reward model with a trained head."""
    raw = make(folder) / "Data" / "PKU-SafeRLHF"
    pairs = [str(path) for path in sorted(raw.glob("data/*/train.jsonl"))]
    run("preprocess", "--local_dataset_path", raw, "--local_save_dir", folder / "Data" / "verl", "--shuffle")
    head = folder / "head.safetensors"
    run("train-head", folder / "body", *pairs, "--out", head, "--widths", "32,8", "--epochs", "60")
    run("merge", folder / "body", head, folder / "rm")
    return folder


def run(*arguments: object) -> None:
    """Run a command of the recipe; its errors are raised."""
    assert run_recipe("ups-rm", [str(argument) for argument in arguments], program="mindrlhf-grpo recipe") == 0


def train(folder: Path, name: str, *further: str) -> list[dict[str, float]]:
    """Return the metrics of a training run in the folder that :func:`trained` filled."""
    run("train", TINY, "trainer.device=cpu", *places(folder), f"trainer.default_local_dir={folder / name}", *further)
    return tiny.metrics(folder / name)


def places(folder: Path) -> list[str]:
    """Return verl's names with the paths of a folder."""
    return [
        f"data.train_files={folder}/Data/verl/train.parquet", f"data.val_files={folder}/Data/verl/val.parquet",
        f"actor_rollout_ref.model.path={folder}/policy", f"reward_model.model.path={folder}/rm",
        f"trainer.group_log_dir={folder}/groups",
    ]  # fmt: skip


def gap_closed(metrics: list[dict[str, float]], last: int) -> float:
    """The part of what ``critic/score/mean`` lacked of 1 in the first three steps that it has won in the last ones."""
    scores = [line["critic/score/mean"] for line in metrics]
    before, after = float(np.mean(scores[:3])), float(np.mean(scores[-last:]))
    return (after - before) / (1.0 - before)


def share_with(run_dir: Path, word: str, steps: range) -> float:
    """Return the share of completions of some steps that contain a word."""
    files = [run_dir / "rollouts" / f"step_{step}.jsonl" for step in steps]
    lines = [line for path in files for line in path.read_text().splitlines()]
    return float(np.mean([word in json.loads(line)["completion"].split() for line in lines]))


def verl_command() -> tuple[str, ...]:
    """Return the names of the original launch script with their values."""
    return (
        "algorithm.adv_estimator=grpo", "data.train_batch_size=512", "data.max_prompt_length=1024",
        "data.max_response_length=2048", "data.filter_overlong_prompts=True", "data.truncation='error'",
        "data.return_raw_chat=True", "actor_rollout_ref.model.use_remove_padding=True",
        "actor_rollout_ref.model.enable_gradient_checkpointing=True", "actor_rollout_ref.model.trust_remote_code=True",
        "actor_rollout_ref.actor.optim.lr=1e-6", "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.1",
        "actor_rollout_ref.actor.ppo_mini_batch_size=128", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.kl_loss_coef=0.001",
        "actor_rollout_ref.actor.kl_loss_type=low_var_kl", "actor_rollout_ref.actor.entropy_coeff=0",
        "actor_rollout_ref.actor.fsdp_config.param_offload=False",
        "actor_rollout_ref.actor.fsdp_config.optimizer_offload=False", "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=2",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.5", "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.temperature=1.0", "actor_rollout_ref.rollout.top_p=1.0",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.ref.fsdp_config.param_offload=False", "reward_model.enable=True",
        "reward_model.strategy=fsdp", "reward_model.use_reward_loop=False", "reward_model.model.trust_remote_code=True",
        "reward_model.model.use_remove_padding=True", "reward_model.model.fsdp_config.param_offload=False",
        "reward_model.micro_batch_size_per_gpu=16", "algorithm.use_kl_in_reward=False",
        "algorithm.norm_adv_by_std_in_grpo=True", "trainer.critic_warmup=0", 'trainer.logger=["console","wandb"]',
        "trainer.project_name='verl_grpo_pku_saferlhf'", "trainer.experiment_name='qwen2_7b_myrm_grpo'",
        "trainer.val_before_train=True", "trainer.n_gpus_per_node=8", "trainer.nnodes=1", "trainer.save_freq=50",
        "trainer.test_freq=10", "trainer.total_epochs=5", "trainer.group_log_freq=10",
        "trainer.group_log_max_groups=2", "trainer.group_log_max_samples_per_group=4",
    )  # fmt: skip
