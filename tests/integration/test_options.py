"""Every algorithm, preset and model option goes through the whole loop; its marks show in metrics and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.trainers import online
from mindrlhf_grpo.trainers.online import train
from tests.support import tiny
from tests.support.runs.commands import command
from tests.support.runs.metrics_page import undocumented

pytestmark = pytest.mark.trains

SHORT = {"train": {"steps": 2}, "rollout": {"group_size": 4, "max_tokens": 6, "slots": 8}}
BY_LINE = """
def per_line(completions):
    return [[float(str(k) in text) for k in range(3)] for text in completions]

def rare(completions):
    return [float("7" in text[:3]) for text in completions]

def constant(completions):
    return [1.0] * len(completions)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("options")
    tiny.prepare(folder)
    (folder / "extra.py").write_text(BY_LINE)
    return folder


def run(folder: Path, name: str, **sections: Any) -> list[dict[str, float]]:
    """Metrics of two steps with the given settings."""
    merged = {key: {**SHORT.get(key, {}), **sections.get(key, {})} for key in SHORT}
    config = tiny.prepare(folder, **{**sections, **merged})
    train(load_config(config, [f"run_dir={folder / name}"]))
    return tiny.metrics(folder / name)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "gdpo"])
def test_every_algorithm_updates_the_policy(folder: Path, name: str) -> None:
    lines = run(folder, name, algorithm={"name": name})
    assert all(line["grad_norm"] > 0 and line["updates"] == 1 for line in lines)


@pytest.mark.parametrize("preset", ["trl", "verl", "openrlhf", "mindrlhf", "lightrft"])
def test_every_preset_runs_and_those_with_a_reference_report_its_kl(folder: Path, preset: str) -> None:
    lines = run(folder, f"preset-{preset}", algorithm={"preset": preset})
    if preset in ("mindrlhf", "openrlhf", "lightrft"):
        assert lines[0]["kl/mean"] == pytest.approx(0.0, abs=1e-6)  # the policy is still the reference
        assert lines[1]["kl/mean"] > 1e-9
    else:
        assert "kl/mean" not in lines[0]  # there is no reference, so nothing was measured


def test_rewards_per_line_reach_the_tokens_of_their_line(folder: Path) -> None:
    rewards = [{"function": f"{folder / 'extra.py'}:per_line"}]
    run(folder, "rank", algorithm={"name": "rank_grpo"}, rewards=rewards)
    seen = 0
    for row in tiny.rollouts(folder / "rank", 1).values():
        assert len(row["components"]["per_line"]) == 3
        line = np.cumsum([0, *(piece == "\n" for piece in row["tokens"][:-1])])
        for item in set(line.tolist()):
            values = {value for value, at in zip(row["advantages"], line, strict=True) if at == item}
            assert len(values) == 1, "one advantage for all tokens of a line"
            seen += 1
    assert seen >= 16


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("lora", {"lora_rank": 4, "lora_alpha": 8}),
        ("bfloat16", {"dtype": "bfloat16"}),
        ("recompute", {"recompute": True}),
        ("plain", {"layout": "plain"}),
    ],
)
def test_model_options_train(folder: Path, name: str, model: dict[str, Any]) -> None:
    settings = {"path": str(folder / "model"), "device": "cpu", **model}
    lines = run(folder, name, model=settings, algorithm={"kl_coef": 0.1})
    assert all(line["grad_norm"] > 0 for line in lines)
    assert lines[1]["kl/mean"] > 0
    policy = folder / name / "checkpoints" / "step_2" / "policy"
    assert (policy / ("adapter_model.safetensors" if name == "lora" else "model.safetensors")).is_file()
    assert (policy / "tokenizer.json").is_file()


def test_dead_groups_are_counted_masked_or_replaced(folder: Path) -> None:
    rewards = [{"function": f"{folder / 'extra.py'}:constant"}]
    kept = run(folder, "dead-keep", rewards=rewards)
    assert [line["dead_group_frac"] for line in kept] == [1.0, 1.0]
    assert [line["grad_norm"] for line in kept] == [0.0, 0.0]
    masked = run(folder, "dead-mask", rewards=rewards, algorithm={"dead_groups": "mask"})
    assert [line["tokens/trained"] for line in masked] == [0.0, 0.0]
    assert [line["updates"] for line in masked] == [0.0, 0.0]
    again = run(folder, "dead-resample", rewards=rewards, algorithm={"dead_groups": "resample", "resample_budget": 3})
    assert again[0]["tokens/generated"] > 2.5 * kept[0]["tokens/generated"]  # three rounds
    assert again[0]["updates"] == 0.0
    assert again[0]["dead_group_frac"] == 1.0  # of the groups drawn, also those that were replaced
    rare = [{"function": f"{folder / 'extra.py'}:rare"}]
    some = run(folder, "dead-some", rewards=rare, algorithm={"dead_groups": "resample", "resample_budget": 3})[0]
    assert 0.0 < some["dead_group_frac"] < 1.0
    assert some["tokens/generated"] > some["length/mean"] * some["prompts"] * 4


def test_kl_in_the_reward_lowers_the_advantage_of_what_strays(folder: Path) -> None:
    lines = run(folder, "kl-reward", algorithm={"kl_coef": 0.5, "kl_in": "reward", "kl_estimator": "k1"})
    assert all(line["grad_norm"] > 0 for line in lines)


def test_truncated_completions_can_be_left_out(folder: Path) -> None:
    lines = run(folder, "truncated", algorithm={"mask_truncated": True})
    for line in lines:
        assert line["tokens/trained"] < line["tokens/generated"]


def test_truncated_sampling_says_that_the_ratio_is_not_that_of_the_sampler(folder: Path) -> None:
    run(folder, "top-k", rollout={"top_k": 5, "group_size": 4, "max_tokens": 6})
    warnings = json.loads((folder / "top-k" / "summary.json").read_text())["warnings"]
    assert any("truncated" in text and "ratio" in text for text in warnings)


def test_evaluation_keeps_the_best_checkpoint_and_stops_at_the_target(folder: Path) -> None:
    lines = run(
        folder,
        "eval",
        eval={"source": str(folder / "rows.jsonl"), "every": 1, "stop_at": 0.0},
        checkpoint={"keep_best": True, "keep_last": 1},
    )
    summary = json.loads((folder / "eval" / "summary.json").read_text())
    assert len(lines) == 1
    assert "reached the target" in summary["stopped_because"]
    assert summary["best_step"] == 1
    assert (folder / "eval" / "checkpoints" / "step_1").is_dir()
    assert lines[0]["eval/problems"] == 40


def test_weights_that_explode_stop_the_run_with_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "learning_rate", lambda train, step: 1e38)  # more than the configuration accepts
    config = tiny.prepare(folder, **SHORT)
    arguments = ["train", str(config), f"run_dir={folder / 'nan'}"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == RunFailed.exit_code
    assert "Traceback" not in capsys.readouterr().err


def test_every_metric_of_these_runs_is_in_the_glossary(folder: Path) -> None:
    assert undocumented(folder) == set()


def test_another_tokenizer_is_read_and_saved_with_the_policy(folder: Path, tmp_path: Path) -> None:
    """A model folder without a tokenizer, and one of another folder whose tokens are the same."""
    import shutil

    config = tiny.prepare(tmp_path, **SHORT)
    elsewhere = tmp_path / "tokenizer"
    elsewhere.mkdir()
    for file in (tmp_path / "model").glob("tokenizer*"):
        shutil.move(file, elsewhere)
    refused = command("train", config)
    assert refused.code == 2
    assert "no tokenizer in" in refused.err
    wrong = command("train", config, f"model.tokenizer={tmp_path / 'nowhere'}")
    assert wrong.code == 2
    assert "model.tokenizer: " in wrong.err
    done = command("train", config, f"model.tokenizer={elsewhere}")
    assert done.code == 0, done.err
    saved = tmp_path / "run" / "checkpoints" / "latest" / "policy" / "tokenizer.json"
    assert saved.read_bytes() == (elsewhere / "tokenizer.json").read_bytes()
    written = command("generate", tmp_path / "run", "1+1=", "--max-tokens", 2)
    assert written.code == 0, written.err
