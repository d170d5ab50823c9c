"""Estimators that one peer has, against numbers worked out by hand: each is a formula of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.advantages import EstimatorInputs, estimate
from mindrlhf_grpo.algorithms.online.cpgd import cpgd
from mindrlhf_grpo.algorithms.online.dr_grpo import dr_grpo
from mindrlhf_grpo.algorithms.online.gdpo import gdpo
from mindrlhf_grpo.algorithms.online.grpo import grpo
from mindrlhf_grpo.algorithms.online.loo import loo
from mindrlhf_grpo.algorithms.online.opo import opo
from mindrlhf_grpo.algorithms.online.pass_k import pass_k
from mindrlhf_grpo.algorithms.online.remax import remax
from mindrlhf_grpo.algorithms.online.rloo import rloo
from mindrlhf_grpo.algorithms.registry import ALGORITHMS

NAN = float("nan")
ONE = np.ones(1)
GROUP = np.zeros(4, np.int64)


def column(*rewards: float) -> np.ndarray:
    """Rewards of N completions as ``[N, 1, 1]``."""
    return np.asarray(rewards, np.float64)[:, None, None]


def close(got: np.ndarray, expected: object, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(got).ravel(), np.asarray(expected, np.float64), rtol=0, atol=tolerance)


def test_leave_one_out_mean_and_std() -> None:
    # the first: others 0, .5, 0 with mean 1/6 and std sqrt(1/12)
    got = loo(column(1, 0, 0.5, 0), ONE, GROUP, eps=1e-6, ddof=1)
    close(got[:1], [(5 / 6) / (12**-0.5 + 1e-6)])
    close(got, [2.88674134598277, -0.999998000004, 0.288674634595679, -0.999998000004])


def test_leave_one_out_is_not_divided_where_the_others_are_equal() -> None:
    close(loo(column(1, 0, 0, 0), ONE, GROUP, eps=1e-6, ddof=1), [1, *[-0.577349269191358] * 3])
    close(loo(column(0.1, 0.1, 0.3), ONE, GROUP[:3], eps=1e-9, ddof=1)[2:], [0.2])
    close(loo(column(3, 1), ONE, GROUP[:2], eps=1e-6, ddof=1), [2, -2])  # one other has no std


def test_opo_weighs_the_baseline_by_length() -> None:
    # (1 · 1 + 2 · 0 + 3 · .5 + 4 · 0) / 10 = .25
    lengths = np.array([1, 2, 3, 4])
    close(opo(column(1, 0, 0.5, 0), ONE, GROUP, lengths=lengths), [0.75, -0.25, 0.25, -0.25])
    equal = np.full(4, 7)
    rewards = column(1, 0, 0.5, 0)
    close(opo(rewards, ONE, GROUP, lengths=equal), dr_grpo(rewards, ONE, GROUP).ravel())


def test_pass_k_rewards_the_best_by_its_lead() -> None:
    # .5 / (std + eps), std² = .6875 / 3
    got = pass_k(column(1, 0, 0.5, 0), ONE, GROUP, eps=1e-6, ddof=1)
    close(got, [0.5 / ((0.6875 / 3) ** 0.5 + 1e-6), 0, 0, 0])
    close(got[:1], [1.044463753920563])
    assert (pass_k(column(1, 1, 0, 0), ONE, GROUP, eps=1e-6, ddof=1) == 0).all()  # two best: no lead


def test_remax_compares_with_the_greedy_completion() -> None:
    baselines = np.array([0.25, 0.25, 0.25, 0.5])
    got = remax(column(1, 0, 0.5, NAN), ONE, np.arange(4), baselines=baselines)
    close(got, [0.75, -0.25, 0.25, 0])


def test_reinforce_baseline_is_the_group_mean() -> None:
    reinforce_baseline = ALGORITHMS["reinforce_pp_baseline"].estimator
    close(reinforce_baseline(column(1, 0, 0.5, 0), ONE, GROUP), [0.625, -0.375, 0.125, -0.375])


def test_cpgd_compares_in_the_batch_with_the_biased_std() -> None:
    # mean .375, biased variance .6875 / 4
    got = cpgd(column(1, 0, 0.5, 0), ONE, np.array([0, 0, 1, 1]), eps=1e-6, ddof=0)
    close(got, np.array([0.625, -0.375, 0.125, -0.375]) / ((0.6875 / 4) ** 0.5 + 1e-6))
    close(got, [1.507553086533953, -0.904531851920372, 0.301510617306791, -0.904531851920372])


RELEVANCE, SAFETY = (1, 0, 1, 0), (0, 0, -0.1, -0.1)
TWO = np.stack([RELEVANCE, SAFETY], axis=1)[:, :, None].astype(np.float64)
PEERS: dict[str, tuple[float, dict[str, Any], list[float]]] = {
    "trl": (1e-4, {}, [1.2246578212829713, -0.00095361786273296, 0.00095361786273296, -1.2246578212829713]),
    "verl": (
        1e-6,
        {"whitening": "tokens", "lengths": np.array([1, 2, 3, 4])},
        [1.926070453127176, 0.44446536081677, 0.44448845635441, -1.03711663595599],
    ),
    "nemo": (
        1e-6,
        {"whitening": "scale"},
        [1.224744871354388, -9.545850609180223e-06, 9.545850609180223e-06, -1.224744871354388],
    ),
}


@pytest.mark.parametrize("peer", PEERS)
def test_gdpo_of_each_peer(peer: str) -> None:
    eps, settings, expected = PEERS[peer]
    close(gdpo(TWO, np.ones(2), GROUP, eps=eps, ddof=1, **settings), expected)


def test_gdpo_of_nemo_leaves_the_completion_itself_out() -> None:
    """On rewards where that is not a common factor, against z-scores of a plain loop."""
    values = np.stack([(1, 0, 0.5, 0), (0, 0, -0.1, -0.3)], axis=1)[:, :, None].astype(np.float64)
    got = gdpo(values, np.array([1.0, 0.5]), GROUP, eps=1e-6, ddof=1, whitening="scale")
    close(got, [1.2167211154436608, -0.20633932292461693, 0.10569307985051783, -1.2116629288105663])


def test_gdpo_of_safe_rank_is_over_completions_and_ranks() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.5]])[:, None, :]
    got = gdpo(rewards, ONE, GROUP, eps=1e-4, ddof=1, whitening="samples")
    first = 0.5 / (3**-0.5 + 1e-4)
    second = np.array([-0.375, -0.375, 0.625, 0.125]) / ((0.6875 / 3) ** 0.5 + 1e-4)
    z = np.stack([np.array([first, -first, first, -first]), second], axis=1)
    close(got, (z / (z.std(ddof=1) + 1e-4)).ravel())


def test_what_an_estimator_lacks_is_named() -> None:
    rewards = column(1, 0, 0, 1)
    inputs = EstimatorInputs(values=rewards, weights=ONE, groups=GROUP, eps=1, ddof=1)
    with pytest.raises(ValueError, match=r"opo needs the lengths \[N\] of 4"):
        estimate(opo, inputs)
    with pytest.raises(ValueError, match=r"remax needs the rewards of greedy completions \[N\] of 4"):
        estimate(remax, inputs)
    with pytest.raises(ValueError, match=r"remax needs the rewards of greedy completions \[N\] of 4"):
        remax(rewards, ONE, GROUP, baselines=np.zeros(3))
    with pytest.raises(ValueError, match="needs the lengths"):
        gdpo(rewards, ONE, GROUP, eps=1, ddof=1, whitening="tokens")
    with pytest.raises(ValueError, match="whitening 'rows' is unknown; there are samples, tokens, scale"):
        gdpo(rewards, ONE, GROUP, eps=1, ddof=1, whitening="rows")


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=9), st.integers(-5, 5))
def test_a_constant_added_to_every_reward_of_a_group_changes_nothing(rewards: list[int], constant: int) -> None:
    groups, lengths = np.zeros(len(rewards), np.int64), np.arange(1, len(rewards) + 1)
    for estimator in (grpo, dr_grpo, rloo, loo, opo, pass_k, cpgd):
        one, other = (
            estimate(
                estimator,
                EstimatorInputs(values=column(*moved), weights=ONE, groups=groups, lengths=lengths, eps=1e-4, ddof=1),
            )
            for moved in (rewards, [reward + constant for reward in rewards])
        )
        close(one, other.ravel(), 1e-9)


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=2, max_size=9))
def test_opo_advantages_weighted_by_length_cancel(rewards: list[float]) -> None:
    lengths = np.arange(1, len(rewards) + 1)
    groups = np.zeros(len(rewards), np.int64)
    got = opo(column(*rewards), ONE, groups, lengths=lengths)
    assert abs(float((got.ravel() * lengths).sum())) < 1e-9
