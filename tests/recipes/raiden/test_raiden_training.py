"""Both trainers learn on tiny models, by file and by flags, alone and as two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.raiden.training import read_training
from mindrlhf_grpo.trainers.preflight import problems_of
from tests.support import tiny
from tests.support.recipes.raiden_files import EXAMPLE, prepare, samples
from tests.support.runs import forked
from tests.support.runs.commands import command

pytestmark = pytest.mark.trains

LANGUAGES = ("zh", "ja", "en", "ko")
FLAGS_OF_B = {
    "model_name": "model_name_or_path", "train_data": "train_data_path", "eval_data": "eval_data_path",
    "batch_size": "per_device_train_batch_size", "num_epochs": "num_train_epochs", "use_bf16": "bf16",
}  # fmt: skip


def recipe(*arguments: str | Path, processes: int = 1) -> dict[str, Any]:
    """Return the JSON at the end of a command's output."""
    if processes == 1:
        alone = command("recipe", "raiden", *arguments)
        assert alone.code == 0, alone.out[-2000:] + alone.err[-4000:]
        summary: dict[str, Any] = json.loads(alone.out.strip().splitlines()[-1])
        return summary
    output = forked.finish(forked.ranks(["recipe", "raiden", *map(str, arguments)], processes))
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of trainer A, by its file."""
    folder = tmp_path_factory.mktemp("raiden")
    pytest.importorskip("torch")
    recipe("train", prepare(folder, num_epochs=24))
    return folder


@pytest.mark.row("raiden", "Trainers A/B")
def test_trainer_a_by_its_file_raises_the_reward_and_reports_sbk_and_cm_by_language(trained: Path) -> None:
    lines = tiny.metrics(trained / "outputs")
    rewards = [line["reward/mean"] for line in lines]
    assert len(rewards) == 24
    assert np.mean(rewards[-3:]) - np.mean(rewards[:3]) >= 0.3  # 0.39 to 0.44 on six tiny models
    for name in ("sbk", "cm", "overall"):
        last = np.mean([line[name] for line in lines[-5:]])
        assert last - lines[0][name] >= 0.3  # 0.49 to 0.87
        assert last > 0.6  # 0.73 to 0.99
    assert {f"{kind}/{name}" for kind in ("sbk", "cm") for name in LANGUAGES} <= lines[-1].keys()
    assert lines[-1]["eval/sbk"] >= 0.5  # of four questions: three or four on six tiny models
    assert lines[-1]["eval/cm"] is None  # the held-out samples of these characters have no conversation


@pytest.mark.row("raiden", "Trainers A/B")
def test_the_trained_weights_are_others_and_lie_where_the_seed_has_them(trained: Path) -> None:
    before = load_file(trained / "model" / "model.safetensors")
    after = load_file(trained / "outputs" / "epoch_23" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.abs(before[name] - after[name]).max() > 1e-4 for name in before)
    assert (trained / "outputs" / "epoch_23" / "tokenizer.json").exists()


def test_the_logs_lie_where_the_seed_has_them(trained: Path) -> None:
    log = (trained / "outputs" / "training.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" {")[0] for line in log if line.startswith("train")] == [
        "train step 10",
        "train step 20",
    ]
    assert (trained / "outputs" / "training_log.jsonl").read_bytes() == (
        trained / "outputs" / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.row("raiden", "Evaluate")
def test_the_trained_model_is_evaluated_by_a_command(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained / "results.json"
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "raiden", "evaluate", "--model_path", str(trained / "outputs" / "epoch_23"), "--eval_data",
              str(trained / "train.json"), "--output_file", str(out), "--max_samples", "6", "--max_new_tokens", "6"])  # fmt: skip
    assert ended.value.code == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    whole = json.loads(out.read_text(encoding="utf-8"))
    assert shown["aggregate"] == whole["aggregate"]
    assert (shown["aggregate"]["num_sbk"], shown["aggregate"]["num_cm"]) == (3, 3)
    assert shown["aggregate"]["avg_overall"] >= 0.5
    assert [row["response"] != "" for row in whole["detailed_results"]] == [True] * 6


@pytest.mark.row("raiden", "Accelerate")
def test_two_processes_finish_with_one_checkpoint(trained: Path, tmp_path: Path) -> None:
    """Trainer B by flags, on the same samples: its batch counts completions, so that a step is the same here."""
    config = yaml.safe_load((trained / "config.yaml").read_text(encoding="utf-8"))
    given = {FLAGS_OF_B.get(name, name): value for name, value in config.items()}
    given |= {
        "output_dir": str(tmp_path / "b"),
        "per_device_train_batch_size": 64,
        "world_size": 2,
        "num_train_epochs": 2,
    }
    flags = [text for name, value in given.items() for text in (f"--{name}", json.dumps(value).strip('"'))]
    summary = recipe("train", *flags, processes=2)
    assert summary["model"] == str(tmp_path / "b" / "final_model")
    steps = [path.name for path in (tmp_path / "b" / "checkpoints").glob("step_*")]
    assert steps == ["step_2"]
    assert (tmp_path / "b" / "final_model" / "model.safetensors").exists()
    alone, both = (tiny.metrics(folder)[0] for folder in (trained / "outputs", tmp_path / "b"))
    assert both["reward/mean"] == pytest.approx(alone["reward/mean"], abs=1e-12)  # the same completions


# ---- configurations, without a run


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """Keys of trainer B that need no file except the samples."""
    for name in ("train", "validation"):
        (tmp_path / f"{name}.json").write_text(json.dumps(samples(name) * 20, ensure_ascii=False), encoding="utf-8")
    return {"train_data_path": str(tmp_path / "train.json"), "eval_data_path": str(tmp_path / "validation.json")}


def flags_of(keys: dict[str, Any]) -> list[str]:
    return [f"--{name}={json.dumps(value)}" for name, value in keys.items()]


@pytest.mark.row("raiden", "Trainers A/B", backend="none")
def test_a_file_and_flags_of_trainer_b_ask_for_the_same_run(keys: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "openr1.yaml"
    path.write_text(yaml.safe_dump(keys))
    by_file, by_flags = read_training([str(path)]), read_training(flags_of(keys))
    assert by_file.config == by_flags.config == read_training(["--config", str(path), "--trainer", "B"]).config
    config = by_file.config
    assert (config.model.path, config.model.dtype, config.model.recompute) == (
        "Qwen/Qwen2.5-14B-Instruct",
        "bfloat16",
        True,
    )
    train = config.train
    assert (train.learning_rate, train.schedule, train.warmup_steps) == (3e-6, "cosine", 100)
    assert (train.prompts_per_step, train.steps) == (2, 80)  # 4 x 2 completions, 4 to each of 160 prompts
    rollout = config.rollout
    assert (rollout.group_size, rollout.max_tokens, rollout.temperature, rollout.top_p) == (4, 512, 0.7, 0.9)
    assert config.data.max_prompt_tokens == 2048 - 512
    assert (config.algorithm.preset, config.algorithm.kl_coef, config.seed) == ("trl", 0.1, 42)
    assert [component.weight for component in config.rewards] == [0.7, 0.3]
    assert (config.checkpoint.every, config.eval.every) == (100, 50)
    assert by_file.final == Path("outputs_openr1/final_model")


def test_the_training_line_of_the_originals_readme_means_what_it_means_there(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    tmp_path.joinpath("data", "training").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    line = """--train_data_path ./data/training/train.json --eval_data_path ./data/training/validation.json
        --model_name_or_path Qwen/Qwen2.5-14B-Instruct --output_dir ./outputs_openr1 --num_train_epochs 1
        --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --learning_rate 3e-6"""
    assert read_training(line.split()).config == read_training(["--trainer", "B"]).config
    assert read_training(["--trainer", "B"]).config.eval.source is not None


def test_trainer_a_has_its_own_numbers(keys: dict[str, Any]) -> None:
    given = {"train_data": keys["train_data_path"], "eval_data": keys["eval_data_path"], "world_size": 8}
    training = read_training(flags_of(given))
    config = training.config
    assert (config.train.prompts_per_step, config.train.steps) == (64, 3)  # 4 x 2 x 8 prompts; 160 / 64 rounded up
    algorithm = config.algorithm
    assert (algorithm.adv_eps, algorithm.std_ddof, algorithm.aggregation, algorithm.kl_coef) == (
        1e-8,
        0,
        "sequence_mean",
        0.1,
    )
    assert (config.rollout.max_tokens, training.final) == (256, Path("outputs/epoch_0"))


def test_seeds_names_of_trl_and_settings_of_our_own_are_taken(keys: dict[str, Any]) -> None:
    given = {**keys, "num_generations": 2, "beta": 0.05, "reward_profile": "repo", "report_to": [], "bf16": False}
    config = read_training([*flags_of(given), "backend=mindspore", "train.steps=7"]).config
    assert (config.rollout.group_size, config.algorithm.kl_coef) == (2, 0.05)
    assert [component.arguments["profile"] for component in config.rewards] == ["repo", "repo"]
    assert (config.model.dtype, config.backend, config.train.steps) == ("float32", "mindspore", 7)


def test_without_held_out_samples_there_is_no_evaluation(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding F14: a wrong path given by hand was dropped in silence; only the default path may be absent."""
    monkeypatch.chdir(tmp_path)
    for names in ({"train_data_path": "train.json"}, {**keys, "eval_data_path": None}, {"train_data": "train.json"}):
        assert read_training(flags_of(names)).config.eval.source is None
    for given in ({**keys, "eval_data_path": "validatoin.json"}, {"train_data": "train.json", "eval_data": "x.json"}):
        with pytest.raises(ConfigError, match=r"there is no file '.*json'.*: null trains without held-out samples"):
            read_training(flags_of(given))
    with pytest.raises(ConfigError, match=r"\(did you mean 'validation.json'\?\); eval_data_path: null"):
        read_training(flags_of({**keys, "eval_data_path": "validatoin.json"}))


@pytest.mark.parametrize(
    ("words", "trackers"),
    [
        (["--report_to", "wandb-offline"], ["wandb-offline"]),
        (["--report_to", "wandb", "tensorboard", "--seed", "3"], ["wandb", "tensorboard"]),
        (["--report_to=wandb,tensorboard"], ["wandb", "tensorboard"]),
        (["--report_to", "none"], []),
        (["--report_to", "all"], ["wandb", "tensorboard"]),
        (["--report_to", "[]"], []),
        (["--report_to", "null"], []),
        (["--report_to", "tensorboard", "train.steps=2"], ["tensorboard"]),
    ],
)
def test_trackers_are_named_in_any_of_trls_forms(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, words: list[str], trackers: list[str]
) -> None:
    """Finding F21: "'wandb' is not accepted; did you mean wandb?"."""
    monkeypatch.setattr("mindrlhf_grpo.recipes.raiden.training.find_spec", lambda name: object())
    assert read_training([*words, *flags_of(keys)]).config.tracking.to == trackers


def test_an_unknown_profile_of_the_reward_is_found_by_check(keys: dict[str, Any]) -> None:
    """Finding F28: `check` passed it, and training stopped at the first reward."""
    found = dict(problems_of(read_training(flags_of({**keys, "reward_profile": "bar"})).config))
    assert "argument 'profile' is 'bar': Input should be 'paper', 'repo' or 'easyr1'" in found["rewards.0.arguments"]
    assert "argument 'profile' is 'bar'" in found["rewards.1.arguments"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_samples_per_prompt": 1}, "num_samples_per_prompt is 1; .* at least 2"),
        ({"learning_rat": 1}, r"there is no key 'learning_rat' \(did you mean 'learning_rate'\?\)"),
        ({"learning_rate": "fast"}, r"\(learning_rate\): train.learning_rate: 'fast' is not accepted"),
        ({"bf16": "maybe"}, "bf16 is 'maybe'; it takes true, false"),
        ({"num_train_epochs": 0}, "num_train_epochs is 0; it must be a number above 0"),
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}, "no multiple of the 4"),
        ({"accuracy_weight": 0.9}, "at most 1 together"),
        ({"train_data_path": "none.json"}, "none.json cannot be read"),
        ({"trainer": "C"}, "--trainer C is unknown; there are A, B"),
        ({"max_length": 100}, "max_length"),
    ],
)  # fmt: skip
def test_mistakes_name_the_users_own_key(keys: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as refused:
        read_training(flags_of({**keys, **change}))
    assert type(refused.value).__name__ in ("ConfigError", "DataError")


def test_two_files_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="one configuration file at most"):
        read_training(["a.yaml", "b.yaml"])


def test_check_says_what_a_run_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = prepare(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "raiden", "check", str(path), "--num_epochs", "3"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["steps"], found["prompts_per_step"], found["samples"], found["unscored"]) == (3, 8, 8, 0)
    assert found["reference_answers"]["avg_overall"] == 1.0


@pytest.mark.parametrize("name", ["grpo_config.yaml", "openr1_config.yaml", "tiny.yaml"])
def test_the_examples_configurations_are_read(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    training = read_training([str(EXAMPLE / name)])
    written = tmp_path / "run.yaml"
    written.write_text(yaml.safe_dump(training.config.model_dump(mode="json")))
    assert load_config(written, []) == training.config
