"""Runs that learn nothing end with exit code 3 and the line to look at; those that merely could fail do not end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.runs.commands import command

pytest.importorskip("torch")
pytestmark = pytest.mark.trains

REWARDS = """
import torch

def trl(prompts, completions, **kwargs):
    return [float(len(completion[0]["content"]) > 3) for completion in completions]

def brain(completions):
    return torch.tensor([len(text) for text in completions], dtype=torch.bfloat16, requires_grad=True)

def never(completions):
    return [0.0] * len(completions)

class Judge:
    uses_models = True

    def __init__(self, backend, policy_folder):
        pass

    def check(self, columns):
        pass

    def score(self, groups):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def close(self):
        pass
"""
MEASURED = """
def answers(answer, **kwargs):
    return {"answers": float(len(answer)), "given": float(len(kwargs))}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("standstill")
    tiny.prepare(folder)
    (folder / "mine.py").write_text(REWARDS)
    (folder / "measured.py").write_text(MEASURED)
    (folder / "two.jsonl").write_text("".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(2)))
    return folder


def train(folder: Path, name: str, function: str, *overrides: str) -> tuple[int, str, Path]:
    """Exit code, standard error and folder of a run with one reward."""
    rewards = f"rewards=[{{function: '{folder / 'mine.py'}:{function}'}}]"
    done = command("train", folder / "config.yaml", rewards, f"run_dir={folder / name}", "train.steps=4", *overrides)
    return done.code, done.err, folder / name


def test_a_reward_that_fails_on_every_sample_stops_the_run_at_its_first_step(folder: Path) -> None:
    """Newcomer P1: the usual reward of TRL failed on every sample, and the run ended with exit code 0."""
    code, said, run = train(folder, "trl", "trl")
    assert code == 3
    assert "step 1: reward trl failed for every completion of this step: TypeError: string indices must be" in said
    assert f"({folder / 'mine.py'}:5); completions are texts here: with completions: messages a reward gets" in said
    assert len(tiny.metrics(run)) == 1
    assert tiny.metrics(run)[0]["reward/failed_frac"] == 1.0


def test_with_messages_it_is_the_reward_of_trl_and_with_warn_the_run_goes_on(folder: Path) -> None:
    code, _, run = train(folder, "messages", "trl", "rewards.0.completions=messages", "train.steps=1")
    assert code == 0
    assert 0 < tiny.metrics(run)[0]["weights/changed_frac"] <= 1
    code, said, run = train(folder, "warned", "trl", "train.on_alarm=warn", "train.steps=2")
    assert (code, len(tiny.metrics(run))) == (0, 2)
    assert "alarm rewards_fail at step 1" in said
    warnings = json.loads((run / "summary.json").read_text())["warnings"]
    assert any(
        text.startswith("reward trl failed for 32 samples in 2 steps; the first: TypeError") for text in warnings
    )


def test_a_reward_of_bfloat16_with_a_gradient_is_read(folder: Path) -> None:
    """Finding D4."""
    code, said, run = train(folder, "brain", "brain", "train.steps=1")
    assert (code, "failed" in said) == (0, False)
    assert tiny.metrics(run)[0]["reward/mean"] > 0


def test_a_class_that_cannot_score_ends_the_run_before_its_first_step(folder: Path) -> None:
    """Finding F1: out of memory in a judge turned every reward into 0, with exit code 0."""
    code, said, run = train(folder, "judge", "Judge")
    assert code == 3
    assert f"reward 'Judge' failed: OutOfMemoryError: CUDA out of memory ({folder / 'mine.py'}:23)" in said
    assert not (run / "metrics.jsonl").exists()


def test_resampling_that_keeps_nothing_skips_the_step_and_its_metrics(folder: Path) -> None:
    """Finding F2: a metric that reads a column ended such a run, also where everything was solved. Two rows, four places."""
    code, said, run = train(
        folder, "resample", "never", f"data.source={folder / 'two.jsonl'}", "train.steps=2",
        "algorithm.dead_groups=resample", f"metrics=[{{function: '{folder / 'measured.py'}:answers'}}]",
    )  # fmt: skip
    assert code == 0, said
    for line in tiny.metrics(run):
        assert (line["prompts"], line["prompts/drawn"], line["reward/drawn_mean"]) == (0.0, 16.0, 0.0)
        assert not {"reward/mean", "answers"} & line.keys()
    code, _, run = train(
        folder, "two", "trl", "rewards.0.completions=messages", f"data.source={folder / 'two.jsonl'}", "train.steps=1",
        f"metrics=[{{function: '{folder / 'measured.py'}:answers'}}]",
    )  # fmt: skip
    assert code == 0
    assert tiny.metrics(run)[0]["answers"] == 16.0
    assert tiny.metrics(run)[0]["given"] > 10  # **kwargs are all that there is
