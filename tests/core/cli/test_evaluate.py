"""Summaries of held-out scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.cli.evaluate import pass_at_k, summarise
from mindrlhf_grpo.rewards import RewardTable

NAN = float("nan")


def table(*columns: list[float]) -> RewardTable:
    values = np.array(columns, dtype=np.float64).T[:, :, None]
    names = tuple(f"reward{index}" for index in range(len(columns)))
    return RewardTable(names=names, weights=np.ones(len(columns)), values=values, failures=dict.fromkeys(names, 0))


@pytest.mark.parametrize(
    ("right", "samples", "k", "chance"),
    [(0, 4, 1, 0.0), (1, 4, 1, 0.25), (1, 4, 2, 0.5), (2, 4, 2, 5 / 6), (4, 4, 3, 1.0), (3, 10, 5, 1 - 21 / 252)],
)
def test_pass_at_k(right: int, samples: int, k: int, chance: float) -> None:
    assert pass_at_k(right, samples, k) == pytest.approx(chance, abs=1e-12)


@given(st.integers(1, 20), st.data())
def test_pass_at_k_grows_with_k(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    chances = [pass_at_k(right, samples, k) for k in range(1, samples + 1)]
    assert chances == sorted(chances)
    assert chances[-1] == float(right > 0)


@pytest.mark.parametrize(("right", "samples", "k"), [(5, 4, 1), (-1, 4, 1), (1, 4, 0), (1, 4, 5)])
def test_pass_at_k_refuses_what_cannot_be(right: int, samples: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(right, samples, k)


def test_one_sample_a_problem() -> None:
    found = summarise(table([1.0, 0.0, 1.0, 0.4, 0.6], [0.5, 0.5, 0.0, 1.0, 0.0]), 1)
    assert found["accuracy"] == found["pass@1"] == 0.6
    assert (found["low"], found["high"]) == (0.230724, 0.882379)  # Wilson, 3 of 5
    assert (found["problems"], found["unscored"], found["samples"]) == (5, 0, 1)
    assert found["rewards"] == {"reward0": 0.6, "reward1": 0.4}


def test_several_samples_a_problem() -> None:
    found = summarise(table([1, 0, 0, 1, 0, 0]), 2)
    assert found["accuracy"] == pytest.approx(1 / 3, abs=1e-6)  # the first of each problem
    assert found["pass@1"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["pass@2"] == pytest.approx(2 / 3, abs=1e-6)


def test_problems_without_a_score_are_left_out_and_counted() -> None:
    found = summarise(table([1, NAN, 0]), 1)
    assert (found["accuracy"], found["problems"], found["unscored"]) == (0.5, 2, 1)
    empty = summarise(table([NAN, NAN]), 1)
    assert math.isnan(empty["accuracy"])
    assert (empty["low"], empty["high"], empty["problems"]) == (0.0, 1.0, 0)


def test_a_segment_reward_counts_by_its_mean() -> None:
    values = np.array([[[1.0, 0.0, NAN]], [[1.0, 1.0, 0.0]]])
    found = summarise(RewardTable(names=("rank",), weights=np.ones(1), values=values, failures={"rank": 0}), 1)
    assert found["accuracy"] == 0.5  # 0.5 is not above the line, 2/3 is
