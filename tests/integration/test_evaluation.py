"""Evaluation during training: what is an accuracy, sampled completions, the line of step 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.runs.metrics_page import undocumented

pytest.importorskip("torch")

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.report.reading import read_run
from mindrlhf_grpo.report.words import headline, planned_steps, sentences
from mindrlhf_grpo.trainers.online import train

pytestmark = pytest.mark.trains

REWARDS = """
def big(completions):
    return [3.0] * len(completions)

def negative(completions):
    return [-2.0] * len(completions)

def right(completions):
    return [float("7" in text) for text in completions]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluation")
    tiny.prepare(folder)
    (folder / "acc.py").write_text(REWARDS)
    return folder


def run(folder: Path, name: str, reward: str, **evaluation: Any) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Summary and all lines of metrics of a run of two steps, evaluated after each."""
    config = tiny.prepare(
        folder,
        rewards=[{"function": f"{folder / 'acc.py'}:{reward}"}, {"function": "length", "arguments": {"tokens": 4}}],
        train={"steps": 2}, rollout={"max_tokens": 6},
        eval={"source": str(folder / "rows.jsonl"), "every": 1, **evaluation},
    )  # fmt: skip
    train(load_config(config, [f"run_dir={folder / name}"]))
    return json.loads((folder / name / "summary.json").read_text()), tiny.all_metrics(folder / name)


@pytest.mark.parametrize(("reward", "value"), [("big", 3.0), ("negative", -2.0)])
def test_rewards_are_never_called_an_accuracy(
    folder: Path, reward: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Newcomer P2, finding F19: the report said "held-out accuracy 300.0%" and "-200.0%"."""
    summary, lines = run(folder, reward, reward)
    assert (summary["reward_before"], summary["reward_after"], summary["best_reward"]) == (value, value, value)
    assert not [name for name in summary if "accuracy" in name]
    assert not [name for line in lines for name in line if "accuracy" in name]
    assert lines[0][f"eval/{reward}/mean"] == value
    assert "held-out reward before training" in capsys.readouterr().err
    read = read_run(folder / reward)
    shown = headline(read)
    assert shown is not None
    assert (shown.what, shown.before, shown.after) == ("held-out reward", f"{value:.3f}", f"{value:.3f}")
    assert "%" not in shown.small_print
    assert "accuracy" not in " ".join(sentences(read))


def test_the_evaluation_before_training_is_step_0_of_the_metrics(folder: Path) -> None:
    """Newcomer P2: the accuracy before training was in summary.json only."""
    summary, lines = run(folder, "zero", "right", limit=10)
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert set(lines[0]) == {
        "step", "eval/accuracy", "eval/accuracy/low", "eval/accuracy/high", "eval/reward/mean", "eval/right/mean",
        "eval/length/mean", "eval/problems", "eval/length", "eval/truncated_frac",
    }  # fmt: skip
    assert lines[0]["eval/problems"] == summary["problems"] == 10
    assert lines[0]["eval/accuracy"] == lines[0]["eval/right/mean"] == summary["accuracy_before"]
    assert lines[2]["eval/accuracy"] == summary["accuracy_after"]
    assert summary["held_out"]["before"] == {name: value for name, value in lines[0].items() if name != "step"}
    run(folder, "zero", "right", limit=10)  # finished: nothing is evaluated or written again
    assert tiny.all_metrics(folder / "zero") == lines


def test_several_sampled_completions_of_each_prompt_are_scored(folder: Path) -> None:
    """Newcomer P2: evaluation during training was greedy, with one sample, over all rows."""
    _, lines = run(folder, "samples", "right", limit=12, samples=4, temperature=1.0)
    shares = [line["eval/accuracy"] for line in lines]
    assert all(48 * share == pytest.approx(round(48 * share)) for share in shares)
    assert all(line["eval/pass@4"] >= line["eval/accuracy"] for line in lines)
    assert max(line["eval/pass@4"] for line in lines) > max(shares)


def test_a_run_of_epochs_draws_every_row_and_resumes(folder: Path) -> None:
    """Newcomer P2: there was no length in epochs, and no epoch in the metrics."""
    (folder / "five.jsonl").write_text("".join((folder / "rows.jsonl").read_text().splitlines(keepends=True)[:5]))
    config = tiny.prepare(folder, data={"source": str(folder / "five.jsonl")}, rollout={"max_tokens": 4})
    text = config.read_text().replace("  steps: 5\n", "")
    config.write_text(text)
    one, two = (load_config(config, [f"run_dir={folder / 'epochs'}", f"train.epochs={count}"]) for count in (1.6, 4))
    train(one)
    assert [line["epoch"] for line in tiny.metrics(folder / "epochs")] == [0.8, 1.6]
    train(two)
    lines = tiny.metrics(folder / "epochs")
    assert [line["epoch"] for line in lines] == pytest.approx([0.8, 1.6, 2.4, 3.2, 4.0])
    assert planned_steps(read_run(folder / "epochs")) == 5


def test_completions_are_printed_every_few_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Newcomer P2: completions were in the report only."""
    config = tiny.prepare(folder, train={"steps": 2}, rollout={"max_tokens": 4}, tracking={"print_every": 2})
    train(load_config(config, [f"run_dir={folder / 'printed'}"]))
    said = capsys.readouterr().err
    assert "completions of step 2" in said
    assert "completions of step 1" not in said
    assert said.index("loading ") < said.index("step 1 of 2 begins") < said.index("step 1/2")


def test_every_metric_of_these_runs_is_in_the_glossary(folder: Path) -> None:
    """Newcomer, docs: there was no glossary of the metrics. It runs last and reads what the tests above have written."""
    assert list(folder.rglob("metrics.jsonl"))
    assert undocumented(folder) == set()
