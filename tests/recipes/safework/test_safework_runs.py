"""Complete runs: the format is learned, a killed run resumes, judges and policy take turns in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.trainers.preflight import check
from mindrlhf_grpo.trainers.stages import read_stages, stage_config
from tests.support import tiny
from tests.support.recipes.safework_runs import killed_after, prepared, run, words
from tests.support.repository import ROOT

pytest.importorskip("torch")

pytestmark = pytest.mark.trains

STEPS = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("safework") / "tiny")


@pytest.fixture(scope="module")
def finished(made: Path) -> Path:
    """A run that was killed after its first checkpoint and resumed."""
    folder = made.parent / "run"
    command = words(made, folder, "--save_steps", "6", "--wandb_mode", "offline", f"train.steps={STEPS}")
    killed_after(command, folder / "metrics.jsonl", 7)
    refused = run(command, expect=2)
    assert "holds a run with 6 steps; give --load_checkpoint to go on" in refused
    run([*command, "--load_checkpoint"])
    return folder


@pytest.mark.row("safework", "End-to-end")
def test_thinking_in_tags_is_learned(finished: Path):
    figures = tiny.metrics(finished)
    rewards = [line["format_reward"] for line in figures]
    assert rewards[0] < 0.2
    assert np.mean(rewards[-4:]) > 0.8  # 0.96 to 1.00 on six tiny models, and at most 0.10 at first
    assert len(figures) <= 200


@pytest.mark.row("safework", "Resume/W&B")
def test_a_killed_run_goes_on_where_it_stopped(finished: Path):
    assert [line["step"] for line in tiny.metrics(finished)] == list(range(1, STEPS + 1))
    summary = json.loads((finished / "summary.json").read_text())
    assert "resumed after step 6" in summary["warnings"]


@pytest.mark.row("safework", "Resume/W&B")
def test_weights_and_biases_offline_writes_a_folder_without_network(finished: Path):
    pytest.importorskip("wandb")
    assert list(finished.glob("wandb/offline-run-*/*.wandb"))


NAMES = {"reward", "format_reward", "accuracy_reward", "rule_reward", "policy_loss", "actor_lr", "grad_norm", "return",
         "response_length", "total_length", "advantages_mean", "advantages_std", "dynamic_sampling/kept_ratio",
         "reward_by_label/general_rule"}  # fmt: skip


def test_metrics_have_their_names_in_the_log(finished: Path):
    logged = set(tiny.metrics(finished)[0])
    assert logged >= NAMES
    assert "kl" not in logged  # --init_kl_coef 0 loads no reference


TAKE_TURNS = """
import json, os, sys
from mindrlhf_grpo_torch.generation import language_model
from mindrlhf_grpo_torch.generation.engine import TorchEngine
from mindrlhf_grpo.cli.main import main

log = []

def told(cls, name, text):
    method = getattr(cls, name)
    def tells(self, *arguments, **settings):
        log.append(text(self))
        return method(self, *arguments, **settings)
    setattr(cls, name, tells)

folder = lambda self: os.path.basename(self.config.path)
told(TorchEngine, "wake_up", lambda self: "wake up")
told(TorchEngine, "sleep", lambda self: "sleep")
load, release = language_model.TorchLanguageModel.weights, language_model.TorchLanguageModel.release

def weights(self):
    if self.model is None:
        log.append(f"load {folder(self)}")
    return load(self)

def freed(self):
    if self.model is not None:
        log.append(f"free {folder(self)}")
    release(self)

language_model.TorchLanguageModel.weights = weights
language_model.TorchLanguageModel.release = freed
try:
    main()
finally:
    json.dump(log, open(sys.argv[0] + ".log", "w"))
"""


@pytest.mark.row("safework", "Co-location")
def test_policy_and_five_judges_take_turns_in_memory(made: Path, tmp_path: Path):
    script = tmp_path / "turns.py"
    script.write_text(TAKE_TURNS)
    shared = {name: str(made / "base") for name in ("knowledge", "normal", "general")}
    registry = json.dumps({**shared, "safety": str(made / "safety"), "value": str(made / "value")})
    command = words(made, tmp_path / "run", "--reward_pretrain", registry, rows="mixed.jsonl")
    command += ["train.steps=2", "data.shuffle=false"]  # each step has every label
    run([str(script), *command])
    log = json.loads(Path(f"{script}.log").read_text())
    judges = [f"{act} {name}" for name in ("base", "safety", "value") for act in ("load", "free")]
    rehearsal, turn = judges, ["wake up", "sleep", *judges]  # each judge is tried, and freed, before the first step
    assert turned(log) == rehearsal + turn * 2
    figures = tiny.metrics(tmp_path / "run")
    for name in ("safety", "value", "knowledge", "normal", "general"):
        assert all(0 <= line[f"reward/{name}/mean"] <= 1 for line in figures)
        assert f"reward_by_label/{name}" in figures[0]


def turned(log: list[str]) -> list[str]:
    """Return the order of turns, without calls that change nothing."""
    kept: list[str] = []
    for one in log:
        last = next((old for old in reversed(kept) if old in ("wake up", "sleep")), "sleep")
        if one in ("wake up", "sleep") and one == last:
            continue
        kept.append(one)
    return kept


CUSTOM = """
import torch

class Answers(torch.nn.Module):
    def forward(self, input_ids, attention_mask, **kwargs):
        return {"score": (input_ids > 5).float().mean(1)}
"""


@pytest.mark.row("safework", "Custom RM")
def test_a_class_of_ones_own_in_a_run_of_two_steps(made: Path, tmp_path: Path):
    (tmp_path / "mine.py").write_text(CUSTOM)
    settings: dict[str, Any] = {"path": str(made / "value"), "class": f"{tmp_path / 'mine.py'}:Answers"}
    command = words(
        made, tmp_path / "run", "--reward_pretrain", json.dumps({"custom": settings}), "train.steps=2",
        "rewards.0.arguments.routing={general_rule: [[model, custom, 1.0]]}",
        "data.source.routing={general_rule: [[model, custom, 1.0]]}",
    )  # fmt: skip
    run(command)
    assert all(0 < line["reward/custom/mean"] < 1 for line in tiny.metrics(tmp_path / "run"))


@pytest.mark.parametrize("stage", ["cot_sft", "m3_rl", "efficient_rl", "search_rl"])
def test_the_stages_of_the_example_can_run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny-safework").symlink_to(made)
    monkeypatch.chdir(tmp_path)
    stages = read_stages(ROOT / "examples" / "safework" / "ladder.yaml")
    (wanted,) = [one for one in stages if one.name == stage]
    check(*stage_config(wanted, stages, ["model.device=cpu"], model=False))
