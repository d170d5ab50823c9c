"""Rewards and advantages brought to a common size, and their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.algorithms.reward_scaling import RewardScaling, scale_advantages
from mindrlhf_grpo.config.algorithm import AlgorithmConfig, ScalingConfig
from mindrlhf_grpo.errors import ConfigError


def alone(item: Any) -> list[Any]:
    """The gather of a single rank."""
    return [item]


def scaling(**settings: Any) -> RewardScaling:
    return RewardScaling(ScalingConfig(**settings))


def test_rewards_are_divided_by_the_deviation_of_all_so_far():
    made = scaling(running_norm=True)
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(5, 7, 1))
    draws[2, 1] = np.nan
    for number, total in enumerate(draws, 1):
        scaled, figures = made.rewards(total)
        so_far = draws[:number][np.isfinite(draws[:number])]
        np.testing.assert_allclose(scaled, total / so_far.std(ddof=1), rtol=1e-7)
        assert figures == {}
    assert made.mean == pytest.approx(so_far.mean(), abs=1e-12)


def test_the_mean_can_be_taken_off_and_bounds_are_counted():
    made = scaling(running_norm=True, minus_mean=True, reward_clip=1.0)
    scaled, figures = made.rewards(np.array([[0.0], [1.0], [2.0], [9.0]]))
    deviation = np.std([0, 1, 2, 9], ddof=1)
    np.testing.assert_allclose(scaled[:, 0], [-3 / deviation, -2 / deviation, -1 / deviation, 1.0], rtol=1e-7)
    assert figures == {"reward/clipped_frac": 0.25}


def test_a_resumed_run_has_the_same_moments():
    first, second = scaling(running_norm=True), scaling(running_norm=True)
    first.rewards(np.array([[1.0], [2.0], [4.0]]))
    second.restore(first.state())
    batch = np.array([[3.0], [5.0]])
    np.testing.assert_array_equal(first.rewards(batch)[0], second.rewards(batch)[0])


def test_advantages_of_trained_tokens_have_mean_0_and_variance_1_and_a_bound():
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    advantages = np.array([[1, 2, 0], [6, 0, 0]], np.float32)
    scaled, metrics = scale_advantages(ScalingConfig(whiten=True), advantages, mask, alone)
    deviation = np.sqrt(14 / 3)
    np.testing.assert_allclose(scaled, [[-2 / deviation, -1 / deviation, 0], [3 / deviation, 0, 0]], rtol=1e-6)
    assert metrics == {}
    scaled, metrics = scale_advantages(ScalingConfig(advantage_clip=1.5), advantages, mask, alone)
    assert scaled.tolist() == [[1.0, 1.5, 0.0], [1.5, 0.0, 0.0]]
    assert metrics == {"advantage/clipped_frac": pytest.approx(2 / 3)}
    both = ScalingConfig(whiten=True, advantage_clip=1.0)
    assert scale_advantages(both, advantages, 0 * mask, alone)[1] == {"advantage/clipped_frac": 0.0}


def test_components_that_are_learned_from_one_by_one_are_not_summed():
    with pytest.raises(ConfigError, match=r"algorithm\.scaling scales the sum"):
        resolve(AlgorithmConfig(name="gdpo", scaling=ScalingConfig(reward_clip=1.0)))
