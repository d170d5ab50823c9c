"""The launchers' arguments and the three named recipes, and the configurations that they give."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.compat.arguments import read_arguments
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.safework.launcher import build_draft
from mindrlhf_grpo.recipes.safework.registry import package_data
from mindrlhf_grpo.trainers.preflight import problems_of

SERVER = "http://judges.example:8000"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """1920 rows: fifteen rollouts of 128 prompts, forty of 48."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "q", "chosen": "9", "label": "general_rule"}) + "\n")
    path.write_text(path.read_text() * 1920)
    return path


def config(rows: Path, *words: str, notes: list[str] | None = None) -> RunConfig:
    told = list[str]() if notes is None else notes
    named = {name: one for name, one in package_data("launch.yaml").items() if name != "common"}
    given = ["--prompt_data", str(rows), "--pretrain", "model", "--save_path", str(rows.parent / "run"), *words]
    values, overrides = read_arguments(given, package_data("arguments.yaml"), named)
    made = build_draft(values, overrides, told.append).validated()
    assert isinstance(made, RunConfig)
    return made


def test_defaults_are_those_of_the_trainer(rows: Path):
    made = config(rows, "--train_batch_size", "512")
    assert (made.algorithm.name, made.algorithm.kl_coef, made.algorithm.kl_in) == ("ppo", 0.01, "reward")
    assert (made.algorithm.kl_estimator, made.algorithm.aggregation, made.algorithm.clip_low) == (
        "k1",
        "sequence_mean",
        0.2,
    )
    assert made.algorithm.returns is not None
    assert (made.algorithm.returns.gamma, made.algorithm.returns.lam) == (1.0, 0.95)
    assert made.critic is not None
    assert made.critic.value_clip == 0.2
    assert (made.train.learning_rate, made.train.max_grad_norm, made.train.weight_decay) == (1e-6, 1.0, 0.0)
    assert (made.rollout.group_size, made.rollout.max_tokens, made.data.max_prompt_tokens) == (1, 1024, 1024)
    assert (made.data.chat_template, made.model.dtype, made.model.recompute) == ("none", "float32", False)
    assert (made.train.steps, made.train.prompts_per_step) == (3, 512)  # 1920 // 512


EXPECTED: dict[str, dict[str, Any]] = {
    "kg_qwenvl": {
        "prompts": 128, "updates": 16, "steps": 45, "tokens": (4096, 4096), "kl": 0.001, "micro": 8192, "slots": 16,
        "keep": (10, 3), "loss": None, "images": 1, "routing": "svkng", "judges": {"knowledge", "normal", "general"},
    },
    "svkng_qwenvl": {
        "prompts": 128, "updates": 8, "steps": 45, "tokens": (8192, 8192), "kl": 0.001, "micro": 65536, "slots": 32,
        "keep": (20, 1), "loss": "cpgd", "images": 1, "routing": "svkng",
        "judges": {"safety", "value", "knowledge", "normal", "general"},
    },
    "svki_deepseek": {
        "prompts": 48, "updates": 16, "steps": 120, "tokens": (8192, 8192), "kl": 0.0, "micro": 16384, "slots": 8,
        "keep": (20, 1), "loss": None, "images": None, "routing": "svki",
        "judges": {"safety", "value", "knowledge", "normal", "general"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_three_recipes_by_name(rows: Path, name: str):
    notes: list[str] = []
    made, want = config(rows, "--recipe", name, "--rm_engine_url", SERVER, notes=notes), EXPECTED[name]
    assert (made.train.prompts_per_step, made.algorithm.updates_per_batch) == (want["prompts"], want["updates"])
    assert (made.train.steps, made.train.warmup_steps) == (want["steps"], round(0.03 * want["steps"]))
    assert (made.data.max_prompt_tokens, made.rollout.max_tokens) == want["tokens"]
    assert (made.train.tokens_per_micro_batch, made.rollout.slots) == (want["micro"], want["slots"])
    assert (made.algorithm.kl_coef, made.algorithm.kl_in, made.algorithm.kl_estimator) == (want["kl"], "loss", "k3")
    assert (made.algorithm.name, made.algorithm.loss, made.rollout.group_size) == ("grpo", want["loss"], 8)
    assert (made.checkpoint.every, made.checkpoint.keep_last) == want["keep"]
    assert (made.model.dtype, made.model.recompute, made.train.weight_decay) == ("bfloat16", True, 0.01)
    assert (made.data.images.limit if made.data.images else None) == want["images"]
    assert "<think>" in str(made.data.system_prompt)
    routed = made.rewards[0].arguments
    assert (routed["routing"], set(routed["models"]), routed["url"]) == (want["routing"], want["judges"], SERVER)
    assert made.data.source["models"] == routed["models"]
    # Finding F13: the original's cosine ends at a tenth, and its Adam has other moments than ours by default.
    assert (made.train.betas, made.train.schedule, made.train.min_learning_rate) == ((0.9, 0.95), "cosine", 1e-7)
    assert (made.model.freeze.prefixes if made.model.freeze else None) == (["visual"] if want["images"] else None)
    assert len(notes) == 2
    assert "--engine_mem_util, --enable_engine_sleep (completions come from" in notes[0]
    assert "--fsdp, --zero_stage, --adam_offload (a single process has no others" in notes[1]


# The launch lines of the three published scripts, in the order they have there, with other paths and another key.
LINES = {
    "kg_qwenvl": """
        --fsdp --use_kl_loss --rm_use_engine --mixed_mm_data --reward_pretrain {judges} --save_path {run} --ckpt_path {run}
        --micro_train_batch_size 1 --train_batch_size 64 --micro_rollout_batch_size 2 --rollout_batch_size 128
        --advantage_estimator group_norm --max_epochs 1 --num_episodes 3 --lr_warmup_ratio 0.03 --n_samples_per_prompt 8
        --prompt_max_len 4096 --generate_max_len 4096 --zero_stage 3 --bf16 --actor_learning_rate 1e-6
        --init_kl_coef 0.001 --kl_estimator k3 --prompt_data {rows} --input_key prompt --images_key images
        --reference_key chosen --apply_chat_template --flash_attn --gradient_checkpointing --save_steps 10
        --max_ckpt_num 3 --engine_mem_util 0.4 --engine_tp_size 1 --enable_engine_sleep --system_prompt {system}
        --l2 1.0e-2 --freeze_prefix --adam_offload --limit_mm_image_per_prompt 1 --use_wandb {key}
        --wandb_project QwenVL --wandb_run_name kg-01""",
    "svkng_qwenvl": """
        --use_cpg_loss --loss_agg_mode seq-mean-token-mean --save_trajectories --use_kl_loss
        --num_trajectories_to_save 16 --print_replay_buffer_stats --fsdp --mixed_mm_data --reward_pretrain {judges}
        --save_path {run} --ckpt_path {run} --micro_train_batch_size 4 --train_batch_size 128
        --micro_rollout_batch_size 4 --rollout_batch_size 128 --advantage_estimator group_norm --max_epochs 1
        --num_episodes 3 --lr_warmup_ratio 0.03 --n_samples_per_prompt 8 --prompt_max_len 8192 --generate_max_len 8192
        --zero_stage 3 --bf16 --actor_learning_rate 1e-6 --init_kl_coef 0.001 --kl_estimator k3 --prompt_data {rows}
        --input_key prompt --images_key images --reference_key chosen --apply_chat_template --flash_attn
        --gradient_checkpointing --save_steps 20 --max_ckpt_num 1 --engine_mem_util 0.4 --engine_tp_size 1
        --enable_engine_sleep --system_prompt {system} --l2 1.0e-2 --freeze_prefix --adam_offload
        --limit_mm_image_per_prompt 1 --use_wandb {key} --wandb_project QwenVL --wandb_run_name svkng-01""",
    "svki_deepseek": """
        --text_only --loss_agg_mode seq-mean-token-mean --save_trajectories --num_trajectories_to_save 16
        --print_replay_buffer_stats --advantage_estimator group_norm --fsdp --adam_offload --flash_attn --rm_use_engine
        --mixed_mm_data --reward_pretrain {judges} --save_path {run} --ckpt_path {run} --micro_train_batch_size 1
        --train_batch_size 24 --micro_rollout_batch_size 1 --rollout_batch_size 48 --max_epochs 1 --num_episodes 3
        --lr_warmup_ratio 0.03 --n_samples_per_prompt 8 --prompt_max_len 8192 --generate_max_len 8192 --zero_stage 3
        --bf16 --actor_learning_rate 1e-6 --init_kl_coef 0 --kl_estimator k3 --prompt_data {rows} --input_key prompt
        --images_key images --reference_key chosen --apply_chat_template --gradient_checkpointing --save_steps 20
        --max_ckpt_num 1 --engine_mem_util 0.2 --engine_tp_size 8 --limit_mm_image_per_prompt 0 --enable_engine_sleep
        --system_prompt {system} --l2 1.0e-2 --freeze_prefix --use_wandb {key} --wandb_project DeepSeek
        --wandb_run_name svki-01""",
}
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", LINES)
def test_the_launch_line_of_the_original_gives_the_run_of_its_recipe(
    rows: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Finding F3: the bare --freeze_prefix and --use_wandb KEY of all three scripts; F7: WANDB_MODE and the run's name."""
    monkeypatch.setattr("mindrlhf_grpo.recipes.safework.launcher.find_spec", lambda name: object())
    for variable in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY"):
        monkeypatch.setenv(variable, "before")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WORLD_SIZE", "8")
    known = package_data("launch.yaml")[name]
    judges, system = {one: f"{path}?engine=true" for one, path in known["reward_pretrain"].items()}, "Think."
    values = {"judges": json.dumps(judges), "run": rows.parent / "run", "rows": rows, "system": system, "key": KEY}
    line = [word.format(**values) if word[0] == "{" else word for word in LINES[name].split()]
    notes: list[str] = []
    by_line = config(rows, *line, "--rm_engine_url", SERVER, "--routing", known["routing"], notes=notes)
    by_name = config(rows, "--recipe", name, "--rm_engine_url", SERVER)
    assert by_line.tracking.to == ["wandb-offline"]
    assert (os.environ["WANDB_NAME"], os.environ["WANDB_API_KEY"]) == (line[-1], "before")
    assert KEY not in by_line.model_dump_json() + "".join(notes)
    found, expected = (made.model_dump(exclude={"tracking", "data", "rewards"}) for made in (by_line, by_name))
    if by_line.algorithm.kl_coef == 0:  # this script leaves out --use_kl_loss, which means nothing without KL
        expected["algorithm"]["kl_in"] = found["algorithm"]["kl_in"]
    assert found == expected
    assert (by_line.data.images, by_line.data.max_prompt_tokens) == (
        by_name.data.images,
        by_name.data.max_prompt_tokens,
    )
    assert by_line.parallel is not None
    assert (by_line.parallel.strategy, by_line.parallel.offload) == ("fsdp", True)


def test_settings_of_the_original_trainer_that_have_a_counterpart_take_effect(rows: Path):
    made = config(
        rows, "--max_samples", "1024", "--lora_rank", "8", "--target_modules", "q_proj", "v_proj", "--kl_target", "6",
        "--adam_betas", "0.8", "0.99", "train.warmup_steps=1", "--eval_data", str(rows), "--eval_steps", "5",
        "--use_tensorboard", "logs", "--save_steps", "-1", "--train_batch_size", "512",
    )  # fmt: skip
    assert isinstance(made.data.source, dict)
    assert (made.train.steps, made.data.source["limit"]) == (2, 1024)  # 1024 // 512
    assert (made.model.lora_rank, made.model.lora_alpha, made.model.lora_targets) == (8, 16.0, ["q_proj", "v_proj"])
    assert made.algorithm.kl_control is not None
    assert (made.algorithm.kl_control.target, made.train.betas) == (6.0, (0.8, 0.99))
    assert isinstance(made.eval.source, dict)
    assert (made.eval.source["path"], made.eval.source["limit"], made.eval.every) == (str(rows), 500, 5)
    assert (made.tracking.to, made.checkpoint.every) == (["tensorboard"], 0)


@pytest.mark.parametrize(
    "words",
    [["--load_in_4bit"], ["--enable_ema"], ["--input_template", "Human: {}"], ["--pretrain_data", "x"],
     ["--remote_rm_url", "http://x"], ["--lora_dropout", "0.1"], ["--use_ms"], ["--grad_accum_dtype", "bf16"], ["--prompt_data_probs", "0.5,0.5"]],
)  # fmt: skip
def test_settings_of_the_original_trainer_that_cannot_be_honoured_are_errors(rows: Path, words: list[str]):
    with pytest.raises(ConfigError, match=rf"{words[0]} is .*; accepted: "):
        config(rows, *words)


def test_an_argument_changes_a_recipe_and_a_key_changes_all(rows: Path):
    made = config(
        rows, "--recipe", "svki_deepseek", "--rm_engine_url", SERVER, "--init_kl_coef=0.5", "--bf16", "false",
        "train.steps=7", "rollout.temperature=0.9",
    )  # fmt: skip
    assert (made.algorithm.kl_coef, made.model.dtype, made.train.steps, made.rollout.temperature) == (
        0.5,
        "float32",
        7,
        0.9,
    )


def test_a_judge_of_ones_own_is_routed_by_arguments(rows: Path):
    """Finding F9: rows and rewards are given the same registry and routing, and what a file holds is kept in the run."""
    judges = {"custom": {"path": "m", "class": "mine.py:Mine"}}
    registry = rows.with_name("registry.yaml")
    registry.write_text(json.dumps(judges))
    made = config(rows, "--reward_pretrain", str(registry), "--routing", '{"mine": [["model", "custom", 1.0]]}',
                  "--train_batch_size", "512")  # fmt: skip
    for place in (made.data.source, made.rewards[0].arguments):
        assert isinstance(place, dict)
        assert (place["models"], place["routing"]) == (judges, {"mine": [["model", "custom", 1.0]]})


def test_dapo_arguments(rows: Path):
    words = ("--n_samples_per_prompt", "8", "--advantage_estimator", "group_norm", "--eps_clip_high", "0.28",
             "--overlong_buffer", "--overlong_buffer_len", "256", "--overlong_buffer_penalty_factor", "0.5",
             "--dynamic_sampling")  # fmt: skip
    made = config(rows, *words, "--loss_agg_mode", "token-mean")
    assert made.rewards[1].function == "overlong"
    assert made.rewards[1].arguments == {"max_tokens": 1024, "buffer": 256, "factor": 0.5}
    assert (made.algorithm.dead_groups, made.algorithm.clip_high) == ("mask", 0.28)
    assert made.algorithm.dead_group_test is not None
    assert (made.algorithm.dead_group_test.without, made.algorithm.dead_group_test.tolerance) == (["overlong"], 1e-6)
    again = config(rows, *words, "--dynamic_sampling_mode", "resample")
    assert (again.algorithm.dead_groups, again.algorithm.resample_budget) == ("resample", 10)


def test_an_overlong_buffer_above_the_length_is_found_before_the_model_is_loaded(rows: Path):
    """Finding F33."""
    words = [
        "--overlong_buffer",
        "--overlong_buffer_len",
        "300",
        "--generate_max_len",
        "200",
        "--train_batch_size",
        "512",
    ]
    found = dict(problems_of(config(rows, *words)))
    assert "buffer (300) is above max_tokens (200)" in found["rewards.1.function"]


def test_bounds_of_rewards_and_advantages(rows: Path):
    made = config(rows, "--reward_running_norm", "--reward_clip", "5", "--advantages_norm", "--advantage_clip", "2")
    assert made.algorithm.scaling is not None
    assert made.algorithm.scaling.model_dump() == {
        "running_norm": True, "minus_mean": False, "reward_clip": 5.0, "whiten": True, "advantage_clip": 2.0,
    }  # fmt: skip


@pytest.mark.row("safework", "ZeRO/FSDP flags", backend="none")
@pytest.mark.parametrize(
    ("words", "strategy"),
    [(["1"], "zero1"), (["2"], "zero2"), (["3"], "fsdp"), (["0"], None), (["1", "--fsdp"], "fsdp")],
)
def test_deepspeeds_stages_are_strategies_of_several_processes(
    rows: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], strategy: str | None
):
    assert config(rows, "--zero_stage", *words).parallel is None  # one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = config(rows, "--zero_stage", *words, "--adam_offload")
    assert (made.parallel.strategy if made.parallel else None) == strategy
    assert made.parallel is None or made.parallel.offload


@pytest.mark.row("safework", "Resume/W&B", backend="none")
def test_weights_and_biases_is_asked_for_by_mode(rows: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setattr("mindrlhf_grpo.recipes.safework.launcher.find_spec", lambda name: object())
    assert config(rows).tracking.to == []
    assert config(rows, "--wandb_mode", "offline").tracking.to == ["wandb-offline"]
    assert config(rows, "--use_wandb").tracking.to == ["wandb"]
    assert config(rows, "--use_wandb", "false").tracking.to == config(rows, "--use_wandb", "").tracking.to == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert config(rows).tracking.to == []
    assert config(rows, "--use_wandb", KEY).tracking.to == ["wandb-offline"]
    assert config(rows, "--use_wandb", KEY, "--wandb_mode", "online").tracking.to == ["wandb"]
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("mindrlhf_grpo.recipes.safework.launcher.find_spec", lambda name: None)
    notes: list[str] = []
    assert config(rows, "--wandb_mode", "offline", notes=notes).tracking.to == []
    assert notes == ["wandb is not installed: the same figures are in metrics.jsonl"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--train_batch_sise", "8"], r"unknown argument --train_batch_sise \(did you mean 'train_batch_size'"),
        (["--train_batch_size", "many"], "invalid int value: 'many'"),
        (["--train_batch_size", "100"], "--rollout_batch_size 512 times --n_samples_per_prompt 1 must be a multiple"),
        (["--recipe", "kg"], "invalid choice: 'kg'"),
        (["--zero_stage", "4"], "--zero_stage is 4; accepted: 0, 1, 2, 3"),
        (["--advantage_estimator", "gea"], "--advantage_estimator is 'gea'; accepted: gae, group_norm"),
        (["--recipe", "kg_qwenvl"], "so it needs url"),
        (["--reward_pretrain", "safety:a,safety:b"], "names 'safety' twice"),
        (["--load_checkpoint", "perhaps"], "neither true nor false"),
        (["--pretrain", ""], "--pretrain is missing"),
    ],
)
def test_what_cannot_be_run_is_said(rows: Path, words: list[str], problem: str):
    with pytest.raises(ConfigError, match=problem):
        config(rows, *words)


def test_loading_a_checkpoint_that_is_not_there_is_said(rows: Path):
    notes: list[str] = []
    config(rows, "--load_checkpoint", notes=notes)
    assert "holds no checkpoint yet" in notes[0]
