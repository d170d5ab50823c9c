"""The two snippets of MindRLHF's quick start, unmodified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mindrlhf_grpo.recipes.mindrlhf.commands import app
from tests.support.recipes import mindrlhf_runs

pytest.importorskip("torch")

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mindrlhf")
    mindrlhf_runs.prepare(folder, steps=2)
    return folder


def run(folder: Path, snippet: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    monkeypatch.setenv("MINDRLHF_CONFIG", str(folder / f"{snippet}.yaml"))
    monkeypatch.setenv("MINDRLHF_BACKEND", "torch")
    path = mindrlhf_runs.script(folder, snippet)
    done = CliRunner().invoke(app, ["run", str(path), str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    return [json.loads(line) for line in (folder / snippet / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.row("mindrlhf", "Facade", backend="torch")
def test_the_grpo_snippet_runs_unmodified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = run(folder, "grpo", monkeypatch)
    assert len(metrics) == 2
    assert metrics[0]["prompts"] == 4
    assert metrics[0]["ratio/max_dev"] < 1e-4
    assert {"reward/accuracy_reward/mean", "reward/format_reward/mean"} <= set(metrics[0])
    assert (folder / "grpo/report.html").is_file()


@pytest.mark.row("mindrlhf", "Facade", backend="torch")
def test_the_ppo_snippet_runs_unmodified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = run(folder, "ppo", monkeypatch)
    assert len(metrics) == 2
    assert {"reward/reward_model/mean", "critic/loss", "pretraining/nll"} <= set(metrics[0])
    assert sorted(path.name for path in (folder / "ppo/checkpoints").glob("step_*")) == ["step_1", "step_2"]
