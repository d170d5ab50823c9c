"""Accuracy and rewards of held-out completions, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.metrics.held_out import held_out_scores, pass_at_k
from mindrlhf_grpo.rewards import RewardTable


def scored(values: list[list[float]], weights: list[float], samples: int = 1):  # type: ignore[no-untyped-def]
    """Scores of completions whose rows hold one value of each component."""
    array = np.array(values, dtype=np.float64)[:, :, None]
    names = tuple(f"part{index}" for index in range(array.shape[1]))
    return held_out_scores(RewardTable(names=names, weights=np.array(weights), values=array), samples)


def test_the_first_component_is_the_accuracy_where_it_is_0_or_1() -> None:
    found = scored([[1, 0.2], [0, 0.4], [1, 0.0], [1, 1.0]], [1.0, 0.5])
    assert found.accuracy is not None
    assert found.accuracy.value == found.components["part0"] == 0.75
    assert found.reward == pytest.approx(0.75 + 0.5 * 0.4)
    assert not found.graded


def test_one_value_in_between_makes_it_a_reward() -> None:
    """Newcomer P2, finding F19: a partial score, a reward model's or DAPO's is no accuracy."""
    for value in (0.4286, -1.0, 2.0):
        found = scored([[1.0], [value], [0.0]], [1.0])
        assert found.graded
        assert found.accuracy is None
        assert found.components["part0"] == pytest.approx((1 + value) / 3)


def test_nothing_scored_is_neither() -> None:
    found = scored([[np.nan], [np.nan]], [1.0])
    assert (found.graded, found.accuracy, found.unscored, found.reward) == (False, None, 2, 0.0)


def test_several_completions_count_by_their_mean_and_their_best() -> None:
    found = scored([[1], [0], [0], [0], [1], [1], [1], [1]], [1.0], samples=4).accuracy
    assert found is not None
    assert found.value == found.passes[1] == 0.625
    assert found.passes[4] == 1.0
    assert (round(found.low, 6), round(found.high, 6)) == (0.14169, 0.943905)  # Wilson, 1.25 of 2


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
