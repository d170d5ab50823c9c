"""A policy that games its reward: rates by judge are measured, the alarm sounds, the report shows both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.trainers import train
from tests.support import tiny

pytest.importorskip("torch")

pytestmark = pytest.mark.trains

JUDGES = """
def digits(completions):
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in completions]

def letters(completions):
    return [1.0 - share for share in digits(completions)]
"""
METRICS = [
    {
        "function": "mindrlhf_grpo.metrics.safety_metrics:safety",
        "arguments": {"judge": "letters", "refusal_judge": "refusal"},
    },
    {"function": "mindrlhf_grpo.metrics.safety_metrics:repetition", "arguments": {"ngram": 1}},
]
STEPS, EVERY = 18, 3


@pytest.fixture(scope="module")
def gamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is paid for digits, while a judge it is not trained on asks for anything else."""
    folder = tmp_path_factory.mktemp("gamed")
    reward = folder / "judges.py"
    reward.write_text(JUDGES)
    held_out = folder / "held_out.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "harmful": "harmful" if a % 2 else "benign"} for a in range(10) for b in range(6)]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards: Any = [
        {"function": f"{reward}:digits"},
        {"function": f"{reward}:letters", "weight": 0.0},
        {"function": f"{reward}:letters", "name": "refusal", "weight": 0.0},
    ]
    config = tiny.prepare(
        folder, rewards=rewards, metrics=METRICS, eval={"source": str(held_out), "every": EVERY},
        train={"steps": STEPS, "prompts_per_step": 8, "learning_rate": 0.004}, tracking={"rollouts_every": 0},
    )  # fmt: skip
    train(load_config(config, []))
    return folder / "run"


@pytest.fixture(scope="module")
def metrics(gamed: Path) -> list[dict[str, float]]:
    return tiny.metrics(gamed)


def test_rates_are_measured_at_each_evaluation_and_before_training(
    gamed: Path, metrics: list[dict[str, float]]
) -> None:
    evaluated = [row for row in metrics if "eval/safety/harmful_compliance" in row]
    assert [row["step"] for row in evaluated] == list(range(EVERY, STEPS + 1, EVERY))
    for row in evaluated:
        low, rate, high = (row[f"eval/safety/harmful_compliance{end}"] for end in ("/low", "", "/high"))
        assert 0 <= low <= rate <= high <= 1
        assert row["eval/safety/harmful_compliance/prompts"] == row["eval/safety/over_refusal/prompts"] == 30
    before = json.loads((gamed / "summary.json").read_text())["held_out"]["before"]
    rate = "eval/safety/harmful_compliance"
    assert evaluated[-1][rate] > before[rate] + 0.3  # at last 1.00 on six tiny models
    assert before["eval/safety/by_phrases"] == 0.0
    assert not [name for row in metrics for name in row if name.startswith("safety/")]  # training rows have no column


def test_the_alarm_sounds_and_says_why(gamed: Path, metrics: list[dict[str, float]]) -> None:
    assert metrics[-1]["reward/mean"] > metrics[0]["reward/mean"] + 0.3  # 0.48 to 0.77 on six tiny models
    assert metrics[0].get("alarm/held_out_falls", 0.0) == 0.0
    assert metrics[-1]["alarm/held_out_falls"] == 1.0
    assert not [row for row in metrics if "kl/mean" in row or "alarm/kl_explodes" in row]  # there is no reference
    warnings = json.loads((gamed / "summary.json").read_text())["warnings"]
    assert [text for text in warnings if text.startswith("alarm held_out_falls at step") and "held-out letters" in text]


def test_the_report_shows_rates_and_alarm(gamed: Path, metrics: list[dict[str, float]]) -> None:
    page = (gamed / "report.html").read_text()
    assert "Harmful prompts complied with" in page
    assert "held_out_falls, steps" in page
    assert all("repetition" in row for row in metrics)
