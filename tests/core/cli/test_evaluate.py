"""What ``evaluate`` prints of scores, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mindrlhf_grpo.cli.evaluate import headline, summarise
from mindrlhf_grpo.rewards import RewardTable

NAN = float("nan")


def table(*columns: list[float]) -> RewardTable:
    values = np.array(columns, dtype=np.float64).T[:, :, None]
    names = tuple(f"reward{index}" for index in range(len(columns)))
    return RewardTable(names=names, weights=np.ones(len(columns)), values=values, failures=dict.fromkeys(names, 0))


def test_one_sample_a_problem() -> None:
    found = summarise(table([1.0, 0.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.0, 1.0, 0.0]), 1)
    assert found["accuracy"] == found["pass@1"] == 0.6
    assert (found["low"], found["high"]) == (0.230724, 0.882379)  # Wilson, 3 of 5
    assert (found["problems"], found["unscored"], found["samples"]) == (5, 0, 1)
    assert found["rewards"] == {"reward0": 0.6, "reward1": 0.4}
    assert found["reward"] == 1.0
    assert headline(found) == "0.600 right (0.231 to 0.882) of 5 problems"


def test_several_samples_a_problem() -> None:
    found = summarise(table([1, 0, 0, 1, 1, 1]), 2)
    assert found["accuracy"] == found["pass@1"] == pytest.approx(2 / 3, abs=1e-6)  # of all completions
    assert found["pass@2"] == 1.0
    assert (found["low"], found["high"]) == (0.20766, 0.938508)  # Wilson, 2 of 3 problems


def test_problems_without_a_score_are_left_out_and_counted() -> None:
    found = summarise(table([1, NAN, 0]), 1)
    assert (found["accuracy"], found["problems"], found["unscored"]) == (0.5, 2, 1)
    empty = summarise(table([NAN, NAN]), 1)
    assert "accuracy" not in empty
    assert (empty["problems"], empty["unscored"]) == (0, 2)


@pytest.mark.parametrize(
    ("values", "mean"), [([3.0, 3.0, 3.0], 3.0), ([-2.0, -2.0], -2.0), ([1.0, -1.0, 1.0, 1.0], 0.5), ([0.6, 1.0], 0.8)]
)
def test_rewards_that_are_neither_0_nor_1_are_no_accuracy(values: list[float], mean: float) -> None:
    """Newcomer P2: the share above 0.5 was called accuracy here, the mean in training."""
    found = summarise(table(values), 1)
    assert not {"accuracy", "low", "high", "pass@1"} & found.keys()
    assert found["reward"] == found["rewards"]["reward0"] == pytest.approx(mean)
    assert headline(found) == f"mean reward {mean:.4g} over {len(values)} problems (reward0 {mean:.4g})"


def test_segment_rewards_are_graded() -> None:
    values = np.array([[[1.0, 0.0, NAN]], [[1.0, 1.0, 0.0]]])
    found = summarise(RewardTable(names=("rank",), weights=np.ones(1), values=values, failures={"rank": 0}), 1)
    assert "accuracy" not in found
    assert found["rewards"] == {"rank": 0.6}  # of the five segments that apply, as in training
