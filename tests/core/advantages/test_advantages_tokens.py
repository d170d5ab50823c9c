"""Token rewards, GAE, REINFORCE++ returns and whitening, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.advantages import gae, moments, reinforce_pp, token_rewards, whiten_tokens

NAN = float("nan")
LENGTHS = np.array([3, 2])
REWARDS = np.array([[0, 0, 1], [0, 2, NAN]])
VALUES = np.array([[0.5, 0.25, 0.75], [1, 0.5, NAN]])


def close(got: np.ndarray, expected: object, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(got, np.asarray(expected, np.float64), rtol=0, atol=tolerance)


@pytest.mark.row("mindrlhf", "PPO", backend="none")
def test_generalised_advantages_and_returns() -> None:
    # first row: delta = -.25, .5, .25 and A = delta + .95 A of the next
    advantages, returns = gae(REWARDS, VALUES, LENGTHS, 1.0, 0.95)
    close(advantages, [[0.450625, 0.7375, 0.25], [0.925, 1.5, 0]])
    close(returns, [[0.950625, 0.9875, 1], [1.925, 2, 0]])


def test_discounted_generalised_advantages() -> None:
    advantages, returns = gae(REWARDS, VALUES, LENGTHS, 0.9, 0.5)
    close(advantages, [[-0.033125, 0.5375, 0.25], [0.125, 1.5, 0]])
    close(returns, [[0.466875, 0.7875, 1], [1.125, 2, 0]])


def test_lambda_one_is_the_return_less_the_value_and_lambda_zero_the_temporal_difference() -> None:
    advantages, returns = gae(REWARDS, VALUES, LENGTHS, 1.0, 1.0)
    close(returns, [[1, 1, 1], [2, 2, 0]])
    close(advantages, [[0.5, 0.75, 0.25], [1, 1.5, 0]])
    close(gae(REWARDS, VALUES, LENGTHS, 1.0, 0.0)[0], [[-0.25, 0.5, 0.25], [-0.5, 1.5, 0]])


def test_returns_add_up_discounted_rewards_to_the_end_of_a_completion() -> None:
    close(reinforce_pp(REWARDS, LENGTHS, 0.5), [[0.25, 0.5, 1], [1, 2, 0]])


@pytest.mark.row("mindrlhf", "PPO", backend="none")
def test_score_stands_at_the_last_token_and_a_policy_above_its_reference_pays() -> None:
    kl = np.array([[0.1, -0.2, 0.3], [0.5, 0.1, NAN]])
    close(token_rewards(np.array([1.0, -1.0]), kl, 0.5, LENGTHS), [[-0.05, 0.1, 0.85], [-0.25, -1.05, 0]])


def test_completion_without_a_token_gets_nothing() -> None:
    close(token_rewards(np.array([1.0, 2.0]), np.zeros((2, 2)), 0.1, np.array([0, 1])), [[0, 0], [2, 0]])
    close(gae(np.zeros((1, 2)), np.ones((1, 2)), np.array([0]), 1, 1)[1], [[0, 0]])


ADVANTAGES = np.array([[1.0, 2, 3], [4, NAN, 9]])
MASK = np.array([[1.0, 1, 1], [1, 0, 0]])


def test_whitening_of_verl_has_the_unbiased_variance() -> None:
    # mean 2.5, variance 5 / 3
    got = whiten_tokens(ADVANTAGES, MASK, moments(ADVANTAGES, MASK), "verl")
    close(got, np.array([[-1.5, -0.5, 0.5], [1.5, 0, 0]]) / np.sqrt(5 / 3 + 1e-8))
    close(got, [[-1.16189500037654, -0.387298333458847, 0.387298333458847], [1.16189500037654, 0, 0]])


def test_whitening_of_openrlhf_has_the_biased_variance() -> None:
    got = whiten_tokens(ADVANTAGES, MASK, moments(ADVANTAGES, MASK), "openrlhf")
    close(got, [[-1.341640786499874, -0.447213595499958, 0.447213595499958], [1.341640786499874, 0, 0]])
    flat = np.array([[2.0, 2, 2 + 1e-6]])
    close(
        whiten_tokens(flat, np.ones((1, 3)), moments(flat, np.ones((1, 3))), "openrlhf")[0, 2:], [2e-6 / 3 / 1e-4], 1e-9
    )


def test_moments_of_ranks_add_up_to_those_of_the_batch() -> None:
    close(moments(ADVANTAGES, MASK), [4, 10, 30])
    close(moments(ADVANTAGES[:1], MASK[:1]) + moments(ADVANTAGES[1:], MASK[1:]), [4, 10, 30])


def test_one_token_is_not_whitened_into_anything() -> None:
    alone = np.array([[0.0, 1]])
    close(whiten_tokens(np.array([[3.0, 7]]), alone, moments(np.array([[3.0, 7]]), alone)), [[0, 0]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \[N\] up to T"):
        reinforce_pp(REWARDS, np.array([4, 1]), 1.0)
    with pytest.raises(ValueError, match="values must be"):
        gae(REWARDS, VALUES[:, :2], LENGTHS, 1, 1)
    with pytest.raises(ValueError, match="finite numbers"):
        token_rewards(np.array([1.0, NAN]), np.zeros((2, 3)), 0.1, LENGTHS)
    with pytest.raises(ValueError, match="'trl' is unknown; there are verl, openrlhf"):
        whiten_tokens(ADVANTAGES, MASK, moments(ADVANTAGES, MASK), "trl")


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_generalised_advantages_equal_their_definition(seed: int, gamma: float, lam: float) -> None:
    random = np.random.default_rng(seed)
    rewards, values = random.normal(size=(3, 5)), random.normal(size=(3, 5))
    lengths = random.integers(0, 6, size=3)
    advantages, returns = gae(rewards, values, lengths, gamma, lam)
    for row, length in enumerate(lengths):
        value = [*values[row, :length], 0.0]
        deltas = [rewards[row, t] + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            direct = sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, length))
            assert advantages[row, t] == pytest.approx(direct, abs=1e-9)
        assert (returns[row, length:] == 0).all()


@given(st.integers(0, 2**32))
def test_whitened_tokens_have_mean_zero_and_variance_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    entries, mask = 3 + 2 * random.normal(size=(4, 6)), (random.random((4, 6)) < 0.7).astype(np.float64)
    mask[0, :3] = 1
    for form, ddof in (("verl", 1), ("openrlhf", 0)):
        got = whiten_tokens(entries, mask, moments(entries, mask), form)[mask > 0]
        assert got.mean() == pytest.approx(0, abs=1e-9)
        assert got.var(ddof=ddof) == pytest.approx(1, abs=1e-6)
