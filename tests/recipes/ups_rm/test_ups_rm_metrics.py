"""verl's names of metrics, the KL in the reward, the sign of the score, and the groups of a step as a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.advantages import token_rewards
from mindrlhf_grpo.recipes.ups_rm.metrics import group_log, verl_names
from mindrlhf_grpo.rewards.models.reward_model import ScorerSettings, squash

FIGURES = {
    "loss": 0.5,
    "kl/mean": 2.0,
    "entropy": 1.5,
    "grad_norm": 0.1,
    "lr": 1e-6,
    "kl/coef": 0.1,
    "reward/mean": 0.6,
}
LENGTHS = np.array([2, 4, 0, 1])


def figures(**further: Any) -> dict[str, float]:
    given = {
        "total": np.array([0.8, 0.2, math.nan, 0.8]), "advantages": np.array([1.0, -1.0, 0.0, 0.5]), "kl": None,
        "lengths": LENGTHS, "prompt_lengths": np.array([3, 3, 5, 5]), "truncated": np.array([0, 1, 0, 0], bool),
        "figures": FIGURES, "split": "train", "kl_loss_coef": 0.1, "entropy_coeff": 0.01,
    }  # fmt: skip
    return verl_names(**{**given, **further})


@pytest.mark.row("ups_rm", "Sign", backend="none")
def test_the_golden_scores_of_logits() -> None:
    safe = squash(ScorerSettings(model="x", squash="sigmoid_neg"), np.array([2.0, 0.0, -2.0]))
    assert safe == pytest.approx([0.11920, 0.5, 0.88080], abs=5e-6)
    spread = squash(ScorerSettings(model="x", squash="sigmoid_neg"), np.linspace(-30, 30, 61))
    assert (np.diff(spread) < 0).all()


@pytest.mark.row("ups_rm", "Sign", backend="none")
def test_a_score_stands_at_the_last_token_of_a_response_and_nowhere_else() -> None:
    safe = np.array([0.1192, 0.5, 0.8808])
    placed = token_rewards(safe, np.zeros((3, 5)), 0.0, np.array([5, 1, 3]))
    assert placed.sum(axis=1).tolist() == safe.tolist()
    assert (placed != 0).sum(axis=1).tolist() == [1, 1, 1]
    assert placed[1].tolist() == [0.5, 0, 0, 0, 0]
    assert token_rewards(np.zeros(1), np.zeros((1, 5)), 0.0, np.array([0])).tolist() == [[0.0] * 5]


@pytest.mark.row("ups_rm", "KL in reward", backend="none")
def test_rewards_are_the_score_less_the_kl_of_all_tokens() -> None:
    kl = np.array([[0.1, 0.2, 9.0], [0.3, -0.1, 0.2]])
    rewards = token_rewards(np.array([0.8, 0.2]), kl, 0.5, np.array([2, 3]))
    assert rewards.sum(axis=1) == pytest.approx([0.8 - 0.5 * 0.3, 0.2 - 0.5 * 0.4])


@pytest.mark.row("ups_rm", "KL in reward", backend="none")
def test_scores_and_rewards_differ_by_the_kl_in_the_reward_and_are_equal_without() -> None:
    found = figures(kl=np.array([0.4, 0.8, 0.0, 0.0]))
    assert (found["critic/score/mean"], found["critic/score/max"]) == (pytest.approx(0.6), 0.8)
    assert found["critic/rewards/mean"] == pytest.approx(0.6 - 0.1 * (0.4 + 0.8) / 3)
    assert found["critic/rewards/min"] == pytest.approx(0.2 - 0.1 * 0.8)
    assert found["reward/mean"] == found["critic/rewards/mean"]
    assert found["actor/reward_kl_penalty"] == pytest.approx((0.4 / 2 + 0.8 / 4 + 0) / 3)
    assert found["actor/reward_kl_penalty_coeff"] == 0.1
    plain = figures()
    assert {name: plain[f"critic/rewards/{name}"] for name in ("mean", "max", "min")} == {
        name: plain[f"critic/score/{name}"] for name in ("mean", "max", "min")
    }
    assert "reward/mean" not in plain  # the trainer's own is the same


def test_the_other_names() -> None:
    found = figures()
    assert found["response_length/mean"] == 1.75
    assert found["response_length/clip_ratio"] == 0.25
    assert found["response/aborted_ratio"] == 0.25
    assert (found["prompt_length/min"], found["prompt_length/max"]) == (3, 5)
    assert found["critic/advantages/mean"] == pytest.approx((2 * 1 - 4 * 1 + 0.5) / 7)
    assert found["critic/returns/max"] == 1.0
    assert (found["actor/loss"], found["actor/kl_loss"], found["actor/lr"]) == (0.5, 2.0, 1e-6)
    assert found["actor/pg_loss"] == pytest.approx(0.5 - 0.1 * 2.0 + 0.01 * 1.5)
    assert "critic/returns/mean" not in figures(figures={**FIGURES, "critic/loss": 1.0})


def test_an_evaluation_has_its_scores_by_source_and_can_be_without_any() -> None:
    found = figures(split="eval", advantages=None, data_source=["a", "b", "b", "b"])
    assert found == {
        "val/score/mean": pytest.approx(0.6), "val/score/max": 0.8, "val/score/min": 0.2,
        "val/test_score/a": 0.8, "val/test_score/b": pytest.approx(0.5),
    }  # fmt: skip
    assert figures(split="eval", total=np.full(4, math.nan)) == {}


@pytest.mark.row("ups_rm", "Group log", backend="none")
def test_groups_are_written_each_ten_steps_and_bounded(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "prompts": ["a"] * 3 + ["b"] * 3 + ["c"] * 3, "completions": [f"answer {i}" for i in range(9)],
        "total": np.array([math.nan, *range(1, 9)], float), "group": np.repeat(np.arange(3), 3), "split": "train",
        "main": True, "folder": str(tmp_path / "groups"), "max_groups": 2, "max_samples_per_group": 2,
    }  # fmt: skip
    for step in range(1, 21):
        assert group_log(**given, step=step) == {}
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == ["step_10.json", "step_20.json"]
    first, second = json.loads((tmp_path / "groups" / "step_20.json").read_text())
    assert first == {
        "step": 20, "group_id": 0, "prompt": "a",
        "responses": [{"response": "answer 0", "reward": None}, {"response": "answer 1", "reward": 1.0}],
    }  # fmt: skip
    assert [response["reward"] for response in second["responses"]] == [3.0, 4.0]
    group_log(**{**given, "main": False}, step=30)
    group_log(**{**given, "split": "eval"}, step=30)
    assert not (tmp_path / "groups" / "step_30.json").exists()
