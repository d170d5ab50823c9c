from __future__ import annotations

import numpy as np

from mindrlhf_grpo.algorithms.online.lite_ppo import lite_ppo
from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.config.algorithm import AlgorithmConfig

NAN = float("nan")


def test_advantages_by_hand() -> None:
    rewards = np.array([1.0, 0.0, 3.0, 2.0, NAN])[:, None, None]
    groups = np.array([0, 0, 1, 1, 1])
    # groups centre on .5 and 2.5; the batch has mean 1.5 and squares 5: std sqrt(5/3), biased sqrt(5/4)
    got = lite_ppo(rewards, np.ones(1), groups, eps=1e-4, ddof=1)
    half = 0.5 / ((5 / 3) ** 0.5 + 1e-4)
    np.testing.assert_allclose(got.ravel(), [half, -half, half, -half, 0], rtol=1e-12)
    biased = lite_ppo(rewards, np.ones(1), groups, eps=1e-9, ddof=0)
    np.testing.assert_allclose(biased.ravel(), np.array([1, -1, 1, -1, 0]) * 0.447213595, rtol=1e-8)


def test_one_number_is_standardised_for_each_item() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 4.0], [1.0, 2.0]])[:, None, :]
    got = lite_ppo(rewards, np.ones(1), np.array([0, 0, 1, 1]), eps=1e-9, ddof=1)
    np.testing.assert_allclose(got[:, 0], [1, -1, 0, 0], rtol=1e-8)  # std .5
    np.testing.assert_allclose(got[:, 1], np.array([0, 0, 1, -1]) / (11 / 3) ** 0.5, rtol=1e-8)


def test_it_averages_over_tokens_under_every_preset() -> None:
    plans = [resolve(AlgorithmConfig(name="lite_ppo", preset=preset)) for preset in (None, "mindrlhf", "lightrft")]
    assert [plan.settings.aggregation for plan in plans] == ["token_mean"] * 3
