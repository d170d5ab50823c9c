"""The commands of the original documents, the errors that stop them, schedules, presets, folders, and wrong rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo.cli.recipe import run_recipe
from mindrlhf_grpo.config.run import DataConfig, RunConfig
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import ConfigError, DataError, UserError
from mindrlhf_grpo.recipes.safe_rank.data import rows
from mindrlhf_grpo.recipes.safe_rank.settings import build_draft, notes, read, run_folder
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.trainers.schedule import learning_rate
from tests.support.recipes import movie_world

BASIC = "--model_name meta-llama/Llama-3.2-3B-Instruct --sft_checkpoint 1500 --lambda_safe 1.0 --penalty_safe 1.0 --use_vllm --bf16"
WHOLE = """--model_name Qwen/Qwen2.5-0.5B-Instruct --sft_checkpoint 800 --catalog_path gt_catalog_complete.pkl --lr 1e-6
--adam_beta1 0.9 --adam_beta2 0.99 --kl_beta 1e-3 --gradient_accumulation_steps 12 --optim paged_adamw_8bit
--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --num_train_epochs 2 --mu 1 --max_prompt_length 2048
--max_completion_length 1024 --num_generations 8 --use_vllm --vllm_mode colocate --vllm_gpu_memory_utilization 0.5
--vllm_tensor_parallel_size 2 --wandb_project safe_rank_grpo --logging_steps 10 --save_strategy steps --save_steps 200
--seed 3407 --bf16 --lambda_safe 1.0 --penalty_safe 1.0 --risk_threshold 0.66"""
GDPO = """--model_name Qwen/Qwen2.5-0.5B-Instruct --sft_checkpoint 800 --catalog_path c.pkl --advantage_mode gdpo
--reward_func exp_inf --lr 1e-6 --kl_beta 1e-3 --gradient_accumulation_steps 24 --per_device_train_batch_size 1
--num_generations 4 --use_vllm --vllm_mode colocate --vllm_gpu_memory_utilization 0.35 --vllm_tensor_parallel_size 2
--save_steps 200 --seed 3407 --bf16 --gradient_checkpointing --lambda_safe 0.5 --penalty_safe 2.0"""
LORA = """--model_name Qwen/Qwen2.5-0.5B-Instruct --sft_checkpoint 800 --use_lora --lora_r 64 --lora_alpha 128
--lora_dropout 0.05 --lora_target_modules q_proj v_proj --advantage_mode gdpo --reward_func exp_inf
--gradient_accumulation_steps 48 --per_device_train_batch_size 2 --num_generations 8 --use_vllm
--vllm_tensor_parallel_size 1 --save_steps 500 --lambda_safe 1.0 --penalty_safe 1.0"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    movie_world.write_world(tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines * 20) + "\n")
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "MS_WORKER_NUM", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def configuration(world: Path, command: str, *more: str) -> RunConfig:
    given = read(["--train_path", str(world), *command.split(), *more])
    config = build_draft(given, f"./results/{given['model_name']}/checkpoint-{given['sft_checkpoint']}").validated()
    assert isinstance(config, RunConfig)
    return config


@pytest.mark.row("safe_rank", "CLI", backend="none")
def test_the_commands_of_the_original_documents_become_configurations(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    basic = configuration(world, BASIC, "--vllm_tensor_parallel_size", "1")
    assert basic.model.path == "./results/meta-llama/Llama-3.2-3B-Instruct/checkpoint-1500"
    assert (basic.train.prompts_per_step, basic.train.steps) == (
        12,
        20,
    )  # 8 x 12 completions, 8 a prompt; 120 rows twice
    assert (basic.algorithm.name, basic.algorithm.kl_coef, basic.algorithm.inner_epochs) == ("grpo", 1e-3, 1)
    assert basic.algorithm.loss == {"name": "item", "items": 20}
    assert basic.train.betas == (0.9, 0.99)
    assert (basic.model.dtype, basic.model.lora_rank, basic.seed, basic.checkpoint.every) == ("bfloat16", 0, 3407, 200)
    assert basic.data.overlong == "truncate"
    total = basic.rewards[0].arguments
    assert total == {"form": "log_decay", "rec_num": 20, "catalog_path": "gt_catalog.pkl", "oracle_path": ".",
                     "risk_threshold": 0.66, "lambda_safe": 1.0, "penalty_safe": 1.0, "safety_discount": "none",
                     "parse_fail_penalty": 0.0}  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    whole = configuration(world, WHOLE)
    assert whole.train.prompts_per_step == 24
    assert whole.metrics is not None
    assert whole.metrics[1].arguments["catalog_path"] == "gt_catalog_complete.pkl"
    gdpo = configuration(world, GDPO)
    assert [reward.function.rpartition(":")[2] for reward in gdpo.rewards] == ["relevance", "safety"]
    assert gdpo.rewards[0].arguments["form"] == "exp_inf"
    assert (gdpo.rewards[1].arguments["lambda_safe"], gdpo.rewards[1].arguments["penalty_safe"]) == (0.5, 2.0)
    assert (gdpo.algorithm.name, gdpo.model.recompute, gdpo.train.prompts_per_step) == ("gdpo", True, 12)


@pytest.mark.row("safe_rank", "CLI", backend="none")
def test_lora_and_what_is_said_of_it(world: Path) -> None:
    config = configuration(world, LORA)
    assert (config.model.lora_rank, config.model.lora_alpha, config.model.lora_targets) == (
        64,
        128.0,
        ["q_proj", "v_proj"],
    )
    assert [note.split(":")[0].split(" is")[0] for note in notes(read(["--train_path", "x", *LORA.split()]))] == [
        "--optim paged_adamw_8bit", "--use_vllm", "--lora_dropout 0.05",
    ]  # fmt: skip
    assert notes(read(["--train_path", "x", "--optim", "adamw_torch"])) == []


@pytest.mark.row("safe_rank", "CLI", backend="none")
def test_a_mismatch_of_tensor_parallelism_stops(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--vllm_tensor_parallel_size is 4; it must be the number of processes, 1"):
        configuration(world, BASIC)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert configuration(world, BASIC).train.prompts_per_step == 48


@pytest.mark.row("safe_rank", "CLI", backend="none")
def test_the_learning_rate_changes_at_step_8000_by_the_size_of_the_model(world: Path) -> None:
    small = configuration(world, "--model_name Qwen/Qwen2.5-0.5B-Instruct --lr 5e-6").train
    large = configuration(world, "--lr 1e-6").train
    assert [learning_rate(small, step) for step in (1, 7999, 8000, 9000)] == [5e-6, 5e-6, 1e-6, 1e-6]
    assert [learning_rate(large, step) for step in (1, 7999, 8000)] == [1e-6, 1e-6, 1e-7]


@pytest.mark.row("safe_rank", "CLI", backend="none")
def test_presets_and_the_folder_that_names_the_settings(world: Path) -> None:
    given = read(["--train_path", "x", "--preset", "safety", "--penalty_safe", "0.25", "--advantage_mode", "gdpo"])
    assert (given["lambda_safe"], given["penalty_safe"]) == (2.0, 0.25)
    assert read(["--train_path", "x", "--preset", "quality"])["penalty_safe"] == 0.5
    assert run_folder(given) == Path(
        "results/meta-llama/Llama-3.2-3B-Instruct/safe_rank_gdpo_log_decay_lr1e-06_kl0.001_mu1_lambda2_penalty0.25"
    )
    assert "_lora64_" in run_folder(read(["--train_path", "x", *LORA.split()])).name


@pytest.mark.row("safe_rank", "CLI", backend="none")
def test_a_count_and_weights_of_rewards(world: Path) -> None:
    config = configuration(world, "--lambda_count 0.5 --advantage_mode gdpo --reward_weights 1 2 0.5")
    assert [(reward.function.rpartition(":")[2], reward.weight) for reward in config.rewards] == [
        ("relevance", 1.0), ("safety", 2.0), ("count", 0.5),
    ]  # fmt: skip
    assert config.rewards[2].arguments == {"rec_num": 20, "lambda_count": 0.5, "target_count": 10}
    with pytest.raises(ConfigError, match="--reward_weights has 2 numbers, and there are 1 rewards"):
        configuration(world, "--reward_weights 1 2")
    with pytest.raises(ConfigError, match="--num_generations 7 does not divide the 96 completions"):
        configuration(world, "--num_generations 7")


def test_wrong_arguments_end_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--advantage_mode", "ppo"], ["--train_path", "x", "--lr", "fast"], ["--train_pat", "x"]):
        with pytest.raises(SystemExit) as stopped:
            read(arguments)
        assert stopped.value.code == 2
    assert "invalid choice: 'ppo'" in capsys.readouterr().err


def test_a_configuration_can_be_printed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "train",
        "--train_path",
        str(world),
        "--print_config",
        "--sft_model_path",
        "models/mine",
        "--output_dir",
        "out",
    ]
    assert run_recipe("safe-rank", arguments, program="mindrlhf-grpo recipe") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["model"]["path"], printed["run_dir"]) == ("models/mine", "out")
    assert printed["items"]["arguments"] == {"segment_mode": "aligned"}


def test_check_tells_coverage_traits_and_bad_rows(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "train.jsonl").write_text(
        json.dumps({**movie_world.rows()[0], "constraints": '{"Anti-gore": true, "Clowns": true}'}) + "\n{\n"
        + json.dumps({"prompt": "?"}) + "\n"
    )  # fmt: skip
    where = ["--catalog_path", "catalog.json", "--oracle_path", ".", "--train_path", "."]
    assert run_recipe("safe-rank", ["check", *where], program="mindrlhf-grpo recipe") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["films"], found["coverage"], found["risky"]) == (12, 1.0, {movie_world.GORE: 6})
    assert (found["rows"], found["bad_rows"], found["unknown_traits"]) == (3, 2, ["Clowns"])
    assert "train.jsonl:2" in found["bad"][0]
    assert found["bad"][1].endswith("train.jsonl:3: groundtruth_with_release_year is None, not a list of [title, year]")


def test_lists_made_elsewhere_are_evaluated(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [
        "Nova (1980)\nXeno (1982)",
        "Nova (1980)\nOrbit (1981)",
        "Up (2009)\nAlibi (1985)\nVault (1984)",
        "",
        "Maw (1990)",
        "x",
    ]
    (world / "lists.jsonl").write_text("".join(json.dumps({"completion": text}) + "\n" for text in lists))
    arguments = [
        "evaluate",
        "--test_path",
        "rows.jsonl",
        "--completions",
        "lists.jsonl",
        "--catalog_path",
        "catalog.json",
    ]
    assert run_recipe("safe-rank", arguments, program="mindrlhf-grpo recipe") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["recall@5"] == pytest.approx((0.5 + 1.0 + 1.0 + 0 + 0 + 0) / 6)
    assert found["ndcg@5"] == pytest.approx(
        (1 / 1.6309297535714575 + 1.0 + 1.0) / 6
    )  # what is no film of the catalog is left out
    # of users who avoid blood: Xeno and Maw, of six listed films in three lists
    assert found["sensitive_ratio@5"] == pytest.approx(2 / 6)
    assert found["sensitive_count@5"] == pytest.approx(2 / 3)
    assert found["sensitivity_dcg@5"] == pytest.approx((0.6309297535714575 + 1.0) / 3)
    assert found["sensitive_lists@5"] == pytest.approx(2 / 3)
    assert found["oracle/coverage"] == pytest.approx(7 / 8)


def test_rows_come_in_one_form(world: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "?"}],
        "completion": [],
        "groundtruth_with_release_year": [["Up", "2009"]],
    }
    kinds = [None, {}, {"A": True, "B": None, "C": False}, '{"A": true}', ""]
    (world / "train.jsonl").write_text("".join(json.dumps({**row, "constraints": kind}) + "\n" for kind in kinds))
    found = [one for one in rows(str(world)) if isinstance(one, dict)]
    assert [one["constraints"] for one in found] == [{}, {}, {"A": True}, {"A": True}, {}]
    assert found[0]["groundtruth_with_release_year"] == [["Up", 2009]]
    assert found[0]["seen_titles"] == []
    assert "completion" not in found[0]


def test_rows_that_are_wrong_stop_the_run_with_their_place_or_are_counted(world: Path) -> None:
    good = movie_world.rows()[0]
    wrong = [
        {**good, "groundtruth_with_release_year": [["Up", "soon"]]},
        {**good, "constraints": 3},
        {**good, "seen_titles": "Up"},
    ]
    (world / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [good, *wrong]))
    tokenizer = load_tokenizer(str(write_tokenizer(world)))
    source = {"name": "mindrlhf_grpo.recipes.safe_rank.data:rows", "path": str(world)}
    with pytest.raises(
        DataError, match=r"3 bad, first \S*train.jsonl:2: groundtruth_with_release_year has \['Up', 'soon'\]"
    ):
        PromptStream(DataConfig(source=source), tokenizer, seed=0).check()
    stream = PromptStream(DataConfig(source=source, bad_rows="skip"), tokenizer, seed=0)
    assert len(stream.all()) == 1
    assert stream.counts["skipped"] == 3


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of characters."""
    from tests.support import tiny_run

    return tiny_run.write_model(folder / "tokens")


def test_what_was_typed_wrong_is_shown_and_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_recipe("safe-rank", ["evaluate", "--nope"], program="mindrlhf-grpo recipe") == 2
    assert "No such option: --nope" in capsys.readouterr().err
    assert run_recipe("safe-rank", [], program="mindrlhf-grpo recipe") == 2
    shown = capsys.readouterr()
    assert "Report recall, NDCG and violations" in shown.out + shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test_path", "."], r"--test_path \. has no split test; it has .*catalog.json"),
        (["--test_path", "bad.jsonl"], r"--test_path bad.jsonl has no usable row of 1; the first: .*bad.jsonl:1"),
        (["--test_path", ".", "--model_path", "m"], "evaluate takes lists from one of --model_path and --completions"),
    ],
)
def test_what_evaluate_lacks_is_said(world: Path, words: list[str], message: str) -> None:
    """Finding F31: a folder without the split was answered with a sentence on models and completions."""
    (world / "bad.jsonl").write_text('{"prompt": "?"}\n')
    arguments = ["evaluate", *words, "--completions", "lists.jsonl", "--catalog_path", "catalog.json"]
    with pytest.raises(UserError, match=message):
        run_recipe("safe-rank", arguments, program="mindrlhf-grpo recipe")


def test_a_script_with_the_originals_imports_runs(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finding F9b: ``libs.safety_oracle`` and ``libs.safe_reward_funcs`` had no counterpart."""
    (world / "script.py").write_text(
        "from libs.safety_oracle import create_oracle\n"
        "from libs.safe_reward_funcs import make_safe_reward_func\n"
        "reward = make_safe_reward_func(rec_num=3, gt_catalog={('Up', 2009)}, safety_oracle=create_oracle('.'))\n"
        "print(reward(['Up (2009)'], [[['Up', 2009]]]))\n"
    )
    assert run_recipe("safe-rank", ["run", "script.py"], program="mindrlhf-grpo recipe") == 0
    assert capsys.readouterr().out == "[[1.0, 0.0, 0.0]]\n"
