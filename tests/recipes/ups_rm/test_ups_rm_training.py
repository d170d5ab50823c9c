"""The complete recipe on torch: from labelled pairs to a policy that avoids the word that the reward model penalises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.recipes import ups_rm_files

pytest.importorskip("torch")

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ups_rm_files.trained(tmp_path_factory.mktemp("ups_rm_training"))


@pytest.fixture(scope="module")
def metrics(folder: Path) -> list[dict[str, float]]:
    return ups_rm_files.train(folder, "run")


@pytest.mark.row("ups_rm", "Training")
def test_the_policy_loses_the_word_and_its_score_rises(folder: Path, metrics: list[dict[str, float]]) -> None:
    """On six tiny models the score closes 0.73 to 0.96 of its gap and the word keeps 0.02 to 0.15 of its share."""
    assert ups_rm_files.gap_closed(metrics, last=10) > 0.5
    before, after = (ups_rm_files.share_with(folder / "run", "bad", steps) for steps in (range(1, 4), range(31, 41)))
    assert before > 0.1
    assert after < 0.3 * before
    assert metrics[-1]["val/test_score/PKU-SafeRLHF"] > 0.9
    assert metrics[0]["critic/score/mean"] == metrics[0]["reward/mean"] == metrics[0]["critic/rewards/mean"]
    assert {"critic/advantages/mean", "response_length/clip_ratio", "actor/pg_loss", "actor/kl_loss", "kl/mean", "actor/loss"} <= set(metrics[0])  # fmt: skip


@pytest.mark.row("ups_rm", "Group log")
def test_groups_of_each_tenth_step_are_on_disk(folder: Path, metrics: list[dict[str, float]]) -> None:
    files = sorted((folder / "groups").iterdir(), key=lambda path: int(path.stem.removeprefix("step_")))
    assert [path.name for path in files] == [f"step_{step}.json" for step in (10, 20, 30, 40)]
    for path in files:
        groups = json.loads(path.read_text())
        assert len(groups) == 2
        assert all(len(group["responses"]) == 4 for group in groups)
        assert all(set(group) == {"step", "group_id", "prompt", "responses"} for group in groups)
        assert all(0 <= response["reward"] <= 1 for group in groups for response in group["responses"])


@pytest.mark.row("ups_rm", "KL in reward")
def test_with_the_kl_in_the_reward_rewards_fall_behind_scores(folder: Path) -> None:
    metrics = ups_rm_files.train(
        folder, "in_reward", "algorithm.use_kl_in_reward=True", "actor_rollout_ref.actor.use_kl_loss=False",
        "algorithm.kl_ctrl.kl_coef=0.1", "trainer.total_training_steps=3", "actor_rollout_ref.actor.optim.lr=0.01",
        "trainer.group_log_dir=null", "data.val_files=null",
    )  # fmt: skip
    first, last = metrics[0], metrics[-1]
    assert first["critic/rewards/mean"] == pytest.approx(first["critic/score/mean"], abs=1e-6)  # still the reference
    assert last["kl/reward"] > 0.01
    assert last["critic/rewards/mean"] == pytest.approx(last["critic/score/mean"] - 0.1 * last["kl/reward"], abs=1e-9)
    assert last["reward/mean"] == last["critic/rewards/mean"] < last["critic/score/mean"]
    assert last["actor/reward_kl_penalty_coeff"] == 0.1
