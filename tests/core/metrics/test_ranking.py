"""Figures of ranked lists and of rewards by item, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mindrlhf_grpo.metrics.item_metrics import by_item
from mindrlhf_grpo.recipes.safe_rank.ranking import discount, flags_at, ndcg_at, recall_at


def test_discounts() -> None:
    assert [round(discount(place), 5) for place in range(1, 6)] == [1.0, 0.63093, 0.5, 0.43068, 0.38685]


def test_recall_and_ndcg_at_a_cutoff() -> None:
    hits = [1, 0, 0, 1]
    assert [recall_at(hits, 4, cutoff) for cutoff in (1, 3, 4)] == [0.25, 0.25, 0.5]
    assert ndcg_at(hits, 1, 4) == pytest.approx(1.430676558)
    assert ndcg_at(hits, 2, 4) == pytest.approx(1.430676558 / 1.630929754)
    assert ndcg_at([], 3, 5) == 0.0


def test_flagged_items() -> None:
    assert flags_at([[1, 0, 1], [0, 0], []], 2) == {
        "ratio": 0.25, "count": pytest.approx(1 / 3), "dcg": pytest.approx(1 / 3), "lists": pytest.approx(1 / 3),
    }  # fmt: skip
    assert flags_at([], 5) == {"ratio": 0.0, "count": 0.0, "dcg": 0.0, "lists": 0.0}


def test_rewards_by_place_and_under_the_names_of_a_peer() -> None:
    total = np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0], [2.0, 3.0]])
    rewards = {"safety": np.array([[0.0, -1.0], [np.nan, np.nan], [0.0, 0.0], [-1.0, 0.0]])}
    given = (["a"] * 4, rewards, total, np.array([0, 0, 1, 1]), np.array([3, 5, 4, 4]), [False, True, False, False])
    found = by_item(*given, {"kl/mean": 0.5, "loss": 1.0}, "train")
    assert found["reward"] == 1.125
    assert found["reward_std"] == pytest.approx((0.5**0.5 + 0 + 0 + 2**0.5) / 4)
    assert found["frac_reward_zero_std"] == 0.5
    assert (found["rewards/pos_1/mean"], found["rewards/pos_2/mean"]) == (1.25, 1.0)
    assert found["reward_func/safety/mean"] == pytest.approx(-1 / 3)
    assert found["reward_func/safety/nonzero_frac"] == pytest.approx(1 / 3)
    assert (found["completions/min_length"], found["completions/clipped_ratio"], found["kl"]) == (3.0, 0.25, 0.5)
    assert by_item(*given, {}, "eval") == {}
