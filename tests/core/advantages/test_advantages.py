"""Advantage estimators against numbers worked out by hand, and against a plain loop over groups."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.advantages import EstimatorInputs, kl_penalised, reads, to_tokens, weighted_total
from mindrlhf_grpo.advantages import estimate as estimate_from
from mindrlhf_grpo.algorithms.online.dr_grpo import dr_grpo
from mindrlhf_grpo.algorithms.online.gdpo import gdpo
from mindrlhf_grpo.algorithms.online.grpo import grpo
from mindrlhf_grpo.algorithms.online.rloo import rloo
from mindrlhf_grpo.algorithms.registry import ALGORITHMS

rank_grpo = ALGORITHMS["rank_grpo"].estimator
NAN = float("nan")
ONE = np.ones(1)


def column(*rewards: float) -> np.ndarray:
    """Rewards of N completions as ``[N, 1, 1]``."""
    return np.asarray(rewards, np.float64)[:, None, None]


def one_group(rewards: np.ndarray) -> np.ndarray:
    return np.zeros(len(rewards), np.int64)


def close(got: np.ndarray, expected: object, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected, np.float64), rtol=0, atol=tolerance)


def estimate(
    name: str, values: np.ndarray, weights: np.ndarray, groups: np.ndarray, eps: float, ddof: int
) -> np.ndarray:
    """The estimator of any algorithm, with equal lengths and a baseline of 0 for those that read them."""
    inputs = EstimatorInputs(
        values=values, weights=weights, groups=groups, lengths=np.full(len(groups), 3), baselines=np.zeros(len(groups)),
        eps=eps, ddof=ddof,
    )  # fmt: skip
    return estimate_from(ALGORITHMS[name].estimator, inputs)


IN_GROUPS = sorted(name for name, algorithm in ALGORITHMS.items() if algorithm.group_size > 1)


@pytest.mark.parametrize(
    ("eps", "ddof", "expected"),
    [
        (1e-4, 1, 0.86587542976070161),  # 0.5 / (1/sqrt(3) + eps)
        (1e-6, 1, 0.86602390378703684),
        (1e-9, 1, 0.86602540228443873),
        (1e-8, 0, 0.99999998000000040),  # 0.5 / (0.5 + eps)
    ],
)
def test_grpo_biased_and_unbiased_std_with_each_eps(eps: float, ddof: int, expected: float) -> None:
    rewards = column(1, 0, 0, 1)
    close(
        grpo(rewards, ONE, one_group(rewards), eps=eps, ddof=ddof).ravel(),
        [expected, -expected, -expected, expected],
    )


def test_dr_grpo_only_centres() -> None:
    rewards = column(1, 0, 0.5, 0)
    close(dr_grpo(rewards, ONE, one_group(rewards)).ravel(), [0.625, -0.375, 0.125, -0.375])


def test_rloo_compares_with_the_others() -> None:
    rewards = column(1, 0, 0.5, 0)
    close(rloo(rewards, ONE, one_group(rewards)).ravel(), [1 - 0.5 / 3, 0 - 1.5 / 3, 0.5 - 1 / 3, -1.5 / 3])


RELEVANCE, SAFETY = (1, 0, 1, 0), (0, 0, -0.1, -0.1)
TWO = np.stack([RELEVANCE, SAFETY], axis=1)[:, :, None].astype(np.float64)


def test_gdpo_keeps_the_small_component_that_a_sum_drowns() -> None:
    groups = one_group(TWO)
    close(
        grpo(TWO, np.ones(2), groups, eps=1e-4, ddof=1).ravel(),
        [0.9477368946893202, -0.7754210956548983, 0.7754210956548984, -0.94773689468932],
    )
    close(
        gdpo(TWO, np.ones(2), groups, eps=1e-4, ddof=1).ravel(),
        [1.2246578212829713, -0.00095361786273296, 0.00095361786273296, -1.2246578212829713],
    )


def test_gdpo_does_not_depend_on_the_scale_of_a_component() -> None:
    scaled = TWO * np.array([1.0, 1000.0])[None, :, None]
    close(
        gdpo(scaled, np.ones(2), one_group(TWO), eps=1e-12, ddof=1),
        gdpo(TWO, np.ones(2), one_group(TWO), eps=1e-12, ddof=1),
        1e-9,
    )


def test_gdpo_whitened_over_tokens_weighs_long_answers_more() -> None:
    """verl's form, against its definition on the token matrix itself."""
    lengths = np.array([1, 2, 3, 4])
    got = gdpo(TWO, np.ones(2), one_group(TWO), eps=1e-6, ddof=1, whitening="tokens", lengths=lengths).ravel()
    z_relevance = 0.5 / (3**-0.5 + 1e-6)
    z_safety = 0.05 / (0.1 * 3**-0.5 + 1e-6)
    scores = np.array([z_relevance + z_safety, z_safety - z_relevance, z_relevance - z_safety, -z_relevance - z_safety])
    tokens = np.repeat(scores, lengths)
    close(got, (scores - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8))
    close(got, [1.926070453127176, 0.44446536081677, 0.44448845635441, -1.03711663595599])


def test_zero_variance_group_under_gdpo_whitening() -> None:
    """Over completions z-scores cancel, so it stays at 0; verl's mean over tokens is not 0 and moves it."""
    rewards, groups = column(1, 0, 0, 2, 2, 2), np.array([0, 0, 0, 1, 1, 1])
    close(gdpo(rewards, ONE, groups, eps=1e-4, ddof=1)[3:], np.zeros((3, 1)))
    lengths = np.array([9, 1, 1, 1, 1, 1])
    got = gdpo(rewards, ONE, groups, eps=1e-6, ddof=1, whitening="tokens", lengths=lengths).ravel()
    scores = np.array([2, -1, -1, 0, 0, 0]) / 3 / (3**-0.5 + 1e-6)
    mean = (9 * scores[0] + scores[1] + scores[2]) / 14
    variance = (9 * (scores[0] - mean) ** 2 + 2 * (scores[1] - mean) ** 2 + 3 * mean**2) / 13
    close(got[3:], [-mean / np.sqrt(variance + 1e-8)] * 3)
    assert got[3] == pytest.approx(-0.9280536767094044, abs=1e-12)


def test_gdpo_normalises_over_completions_and_ranks() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.5]])[:, None, :]
    got = gdpo(rewards, ONE, one_group(rewards), eps=1e-4, ddof=1)
    z = np.stack(
        [
            np.array([0.5, -0.5, 0.5, -0.5]) / (3**-0.5 + 1e-4),
            np.array([-0.375, -0.375, 0.625, 0.125]) / ((0.6875 / 3) ** 0.5 + 1e-4),
        ],
        axis=1,
    )
    close(got, (z - z.mean()) / (z.std(ddof=1) + 1e-4))


def test_rank_grpo_compares_each_rank_with_the_same_rank() -> None:
    rewards = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])[:, None, :]
    got = rank_grpo(rewards, ONE, one_group(rewards), eps=1e-4, ddof=1)
    one = 0.5 / (0.5**0.5 + 1e-4)
    close(got, [[one, 0, one], [-one, 0, -one]])
    changed = rewards.copy()
    changed[0, 0, 2] = -7
    close(rank_grpo(changed, ONE, one_group(rewards), eps=1e-4, ddof=1)[:, :2], got[:, :2])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e8 + 0.1, -0.7])
@pytest.mark.parametrize("name", [*IN_GROUPS, "cpgd"])
def test_equal_rewards_give_exactly_zero(name: str, value: float) -> None:
    rewards = column(*[value] * 7)
    assert (estimate(name, rewards, ONE, one_group(rewards), eps=1e-9, ddof=1) == 0).all()


@pytest.mark.parametrize("name", IN_GROUPS)
def test_singleton_left_after_unscored_samples_gets_zero_not_its_reward(name: str) -> None:
    """verl gives a group of one its raw reward, OpenRLHF and slime NaN; here it is 0 and touches no statistic."""
    rewards = column(5, NAN, NAN, 1, 0)
    groups = np.array([3, 3, 3, 8, 8])
    got = estimate(name, rewards, ONE, groups, eps=1e-4, ddof=1)
    assert (got[:3] == 0).all()
    close(got[3:], estimate(name, rewards[3:], ONE, groups[3:], eps=1e-4, ddof=1))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_unscored_samples_stay_out_of_the_statistics(name: str) -> None:
    with_hole = column(1, NAN, 0, 0, 1)
    without = column(1, 0, 0, 1)
    got = estimate(name, with_hole, ONE, one_group(with_hole), eps=1e-4, ddof=1)
    close(got[[0, 2, 3, 4]], estimate(name, without, ONE, one_group(without), eps=1e-4, ddof=1))
    assert got[1, 0] == 0


def test_component_that_does_not_apply_is_left_out_of_the_sum() -> None:
    values = np.array([[1.0, NAN], [NAN, NAN], [2.0, 3.0]])[:, :, None]
    total = weighted_total(values, np.array([2.0, 10.0]))
    assert np.isnan(total[1, 0])
    close(total[[0, 2], 0], [2, 34])


def test_groups_are_told_by_number_not_by_position() -> None:
    rewards, groups = column(1, 5, 0, 5, 0, 7, 1), np.array([4, -2, 4, -2, 4, -2, 4])
    got = grpo(rewards, ONE, groups, eps=1e-4, ddof=1).ravel()
    close(got[[0, 2, 4, 6]], np.array([1, -1, -1, 1]) * 0.86587542976070161)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.just(NAN), st.floats(-10, 10).map(lambda x: round(x, 3)))),
        min_size=1,
        max_size=14,
    ),
    ddof=st.sampled_from([0, 1]),
)
def test_estimators_equal_a_plain_loop_over_groups(rows: list[tuple[int, float]], ddof: int) -> None:
    groups = np.array([group for group, _ in rows])
    rewards = np.array([reward for _, reward in rows])
    expected = {name: np.zeros(len(rows)) for name in ("grpo", "dr_grpo", "rloo")}
    for index, (group, reward) in enumerate(rows):
        members = [r for g, r in rows if g == group and not np.isnan(r)]
        if np.isnan(reward) or len(set(members)) < 2:
            continue
        mean = statistics.fmean(members)
        spread = statistics.stdev(members) if ddof else statistics.pstdev(members)
        expected["grpo"][index] = (reward - mean) / (spread + 1e-4)
        expected["dr_grpo"][index] = reward - mean
        expected["rloo"][index] = reward - (sum(members) - reward) / (len(members) - 1)
    for name, numbers in expected.items():
        got = estimate(name, rewards[:, None, None], ONE, groups, eps=1e-4, ddof=ddof)
        close(got.ravel(), numbers, 1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.permutations(range(12)), st.sampled_from(sorted(ALGORITHMS)))
def test_order_of_completions_does_not_matter(seed: int, order: list[int], name: str) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(12, 2, 3))
    values[random.random(values.shape) < 0.1] = NAN
    weights, groups = np.array([1.0, 0.3]), np.arange(12) % 3
    straight = estimate(name, values, weights, groups, eps=1e-4, ddof=1)
    close(estimate(name, values[order], weights, groups[order], eps=1e-4, ddof=1), straight[order])


def test_kl_is_taken_from_every_segment_of_the_total() -> None:
    total = np.array([[1.0, 2.0], [NAN, 0.0]])
    got = kl_penalised(total, np.array([10.0, 4.0]), 0.05)
    close(got[0], [0.5, 1.5])
    assert np.isnan(got[1, 0])
    assert got[1, 1] == pytest.approx(-0.2)


def test_sequence_advantage_goes_to_every_token() -> None:
    got = to_tokens(np.array([[0.5], [-2.0]]), np.array([3, 1]), 4)
    assert got.dtype == np.float32
    close(got, [[0.5, 0.5, 0.5, 0], [-2, 0, 0, 0]])


def test_segment_advantage_goes_to_the_tokens_of_its_segment() -> None:
    advantages = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    segments = np.array([[-1, 0, 0, 1, 2], [0, 2, -1, 2, 1]], np.int32)
    got = to_tokens(advantages, np.array([5, 3]), 5, segments)
    close(got, [[0, 1, 1, 2, 3], [4, 6, 0, 0, 0]])


def test_sequence_advantage_ignores_segments() -> None:
    got = to_tokens(np.array([[7.0]]), np.array([2]), 2, np.array([[-1, 3]]))
    close(got, [[7, 7]])


def test_locality_a_reward_of_one_rank_moves_only_its_tokens() -> None:
    rewards = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]])[:, None, :]
    segments, lengths = np.array([[0, 1, 2], [0, 1, 2]]), np.array([3, 3])

    def tokens(values: np.ndarray) -> np.ndarray:
        return to_tokens(rank_grpo(values, ONE, one_group(values), eps=1e-4, ddof=1), lengths, 3, segments)

    penalised = rewards.copy()
    penalised[0, 0, 2] -= 1
    close(tokens(penalised)[:, :2], tokens(rewards)[:, :2])
    assert (tokens(penalised)[:, 2] != tokens(rewards)[:, 2]).any()


@pytest.mark.parametrize(
    ("values", "weights", "groups", "message"),
    [
        (np.zeros((2, 1)), ONE, np.zeros(2), r"values must be \[N, F, K\].*\(2, 1\)"),
        (np.zeros((2, 2, 1)), ONE, np.zeros(2), r"weights \[F\].*\(1,\)"),
        (np.zeros((2, 1, 1)), ONE, np.zeros(3), r"groups \[N\].*\(3,\)"),
        (column(0, np.inf), ONE, np.zeros(2), "infinite reward in row 1"),
    ],
)
def test_wrong_shapes_and_infinite_rewards_are_refused(
    values: np.ndarray, weights: np.ndarray, groups: np.ndarray, message: str
) -> None:
    for name in [name for name, algorithm in ALGORITHMS.items() if "groups" in reads(algorithm.estimator)]:
        with pytest.raises(ValueError, match=message):
            estimate(name, values, weights, groups, eps=1e-4, ddof=1)


def test_tokens_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match=r"advantages of 2 segments need segments \[1, 3\], not None"):
        to_tokens(np.zeros((1, 2)), np.array([3]), 3)
    with pytest.raises(ValueError, match="a token is in segment 2, but there are advantages for 2"):
        to_tokens(np.zeros((1, 2)), np.array([3]), 3, np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match=r"lengths \(2,\) must be \[N\]"):
        gdpo(np.zeros((2, 1, 3)), ONE, np.zeros(2), eps=1e-4, ddof=1, whitening="tokens", lengths=np.ones(2, np.int64))
