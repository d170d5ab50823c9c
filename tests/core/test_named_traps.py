"""Ten places where code bases for reinforcement learning of language models disagree or go wrong, a test for each.

And the promise of rewards by rank: a penalty on one item of a list moves nothing of the others, to the last bit.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mindrlhf_grpo.advantages import EstimatorInputs, estimate, moments, to_tokens, whiten_tokens
from mindrlhf_grpo.algorithms.corrections import Correction
from mindrlhf_grpo.algorithms.offline.dpo import IPO, IPOSum
from mindrlhf_grpo.algorithms.online.cispo import CispoPolicyLoss
from mindrlhf_grpo.algorithms.online.gdpo import gdpo
from mindrlhf_grpo.algorithms.online.grpo import grpo
from mindrlhf_grpo.algorithms.online.rank_grpo import ItemPolicyLoss
from mindrlhf_grpo.algorithms.registry import ALGORITHMS
from mindrlhf_grpo.batches.online import denominators, loss_weights
from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.rewards.builtin.length import overlong
from mindrlhf_grpo.types import Sampling
from tests.support.loss_cases import ADVANTAGES, LOGPS, OLD, ONES, torch_namespace

ONE = np.ones(1)
rank_grpo = ALGORITHMS["rank_grpo"].estimator
reinforce_baseline = ALGORITHMS["reinforce_pp_baseline"].estimator
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def column(*rewards: float) -> np.ndarray:
    """Rewards of N completions as ``[N, 1, 1]``."""
    return np.asarray(rewards, np.float64)[:, None, None]


@pytest.mark.parametrize("name", sorted(name for name, algorithm in ALGORITHMS.items() if algorithm.group_size > 1))
def test_trap_1_a_singleton_group_gets_zero(name: str) -> None:
    """verl gives it its raw reward, OpenRLHF and slime NaN (0 / 0), TRL and NeMo RL 0."""
    inputs = EstimatorInputs(
        values=column(7, 1, 0), weights=ONE, groups=np.array([0, 1, 1]), lengths=np.array([5, 2, 2]), eps=1e-6, ddof=1
    )
    got = estimate(ALGORITHMS[name].estimator, inputs)
    assert got[0, 0] == 0
    assert np.isfinite(got).all()


def test_trap_2_a_group_without_variance_is_moved_by_whitening() -> None:
    """Whitening over tokens subtracts a mean that is not 0, so an all-equal group is taught something nevertheless."""
    rewards, groups, lengths = column(1, 0, 0, 2, 2, 2), np.array([0, 0, 0, 1, 1, 1]), np.array([9, 1, 1, 1, 1, 1])
    by_tokens = gdpo(rewards, ONE, groups, eps=1e-6, ddof=1, whitening="tokens", lengths=lengths).ravel()
    # tokens: 9 x 2/3, 2 x -1/3, 3 x 0 (times a common factor): mean 8/21, sum of squares 38/9
    expected = -(8 / 21) / np.sqrt((38 / 9 - 14 * (8 / 21) ** 2) / 13)
    assert expected == pytest.approx(-0.928053, abs=1e-6)
    np.testing.assert_allclose(by_tokens[3:], expected, rtol=1e-6)
    by_samples = gdpo(rewards, ONE, groups, eps=1e-4, ddof=1).ravel()
    np.testing.assert_allclose(by_samples[3:], 0, atol=1e-15)

    centred = reinforce_baseline(rewards, ONE, groups)
    assert (centred[3:] == 0).all()
    tokens, mask = to_tokens(centred, lengths, 9), (np.arange(9) < lengths[:, None]).astype(np.float64)
    whitened = whiten_tokens(tokens, mask, moments(tokens, mask), "verl")
    np.testing.assert_allclose(whitened[3:, 0], expected, rtol=1e-6)


def test_trap_3_the_bound_of_cispo_is_a_multiplier() -> None:
    """TRL's epsilon_high is the bound itself, others add it to 1: its 0.2 shrinks every weight to a fifth."""
    arrays = {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES, "old_logps": OLD}

    def weights(loss: CispoPolicyLoss) -> np.ndarray:
        parts = [np.eye(6)[token].reshape(2, 3) for token in range(6)]
        values = [loss(NUMPY, LOGPS, arrays | {"weights": part})[0] for part in parts]
        return -np.asarray(values).reshape(2, 3) / (ADVANTAGES * LOGPS)

    np.testing.assert_allclose(weights(CispoPolicyLoss(low=0.8, high=1.2)), [[1.2, 1.1, 0.8], [1.2, 0.8, 1.2]])
    np.testing.assert_allclose(weights(CispoPolicyLoss(low=0.0, high=1.272)), [[1.272, 1.1, 0.5], [1.272, 0.5, 1.272]])
    np.testing.assert_allclose(weights(CispoPolicyLoss(low=0.0, high=0.2)), np.full((2, 3), 0.2))
    np.testing.assert_allclose(weights(CispoPolicyLoss()), [[1.5, 1.1, 0.5], [1.5, 0.5, 4.0]])


def test_trap_4_ipo_of_sums_and_of_averages() -> None:
    """OpenRLHF and MindRLHF compare sums of log-ratios, TRL averages: lengths 2 and 1 make them differ."""
    mask = np.array([[1.0, 1], [1, 0]])
    tensors = {"mask": mask, "weights": mask, "row_weight": np.ones((2, 2)), "ref_logps": -mask}
    logps = np.array([[-0.5, -0.1], [-1.3, 0.0]])  # log-ratios .5 + .9 | -.3
    assert IPOSum(beta=0.1)(NUMPY, logps, tensors)[0] == pytest.approx((1.7 - 5) ** 2)
    assert IPO(beta=0.1)(NUMPY, logps, tensors)[0] == pytest.approx((1.0 - 5) ** 2)


def test_trap_5_biased_and_unbiased_standard_deviation() -> None:
    """In a group of four they differ by sqrt(4 / 3)."""
    rewards, group = column(1, 0, 0, 1), np.zeros(4, np.int64)
    np.testing.assert_allclose(grpo(rewards, ONE, group, eps=1e-6, ddof=1)[0], 0.86602390378703684)
    np.testing.assert_allclose(grpo(rewards, ONE, group, eps=1e-6, ddof=0)[0], 0.99999800000399999)


def test_trap_6_a_sequence_weight_is_a_product_or_a_geometric_mean() -> None:
    """TRL, verl and NeMo RL sum the log-ratios, open-instruct and AReaL average them."""
    gap, mask = np.full((1, 100), 0.02), np.ones((1, 100))
    product, mean = (Correction(level=level, high=1e3).weights(gap, mask)[0, 0] for level in ("sequence", "geometric"))
    assert product == pytest.approx(7.38905609893065)  # e^2
    assert mean == pytest.approx(1.0202013400267558)  # e^.02


def test_trap_7_the_denominator_after_masking_truncated_completions() -> None:
    """A masked row is in no numerator and no token count; as a sequence it counts for TRL and not for verl."""
    mask = np.array([[1.0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    mask[1] = 0  # truncated
    counts = mask.sum(axis=1).astype(np.int64)
    assert denominators(counts, count_masked_rows=False) == (4, 2)
    assert denominators(counts, count_masked_rows=True) == (4, 3)
    token_mean = loss_weights(mask, "token_mean", tokens=4, sequences=2, max_tokens=4)
    np.testing.assert_allclose(token_mean, mask / 4)
    by_sequence = loss_weights(mask, "sequence_mean", tokens=4, sequences=2, max_tokens=4)
    np.testing.assert_allclose(by_sequence.sum(axis=1), [0.5, 0, 0.5])


def test_trap_8_the_overlong_penalty_has_a_cap() -> None:
    """verl, AReaL and LightRFT let it fall without end where generation goes on past the limit."""
    ids = [[0] * count for count in (80, 90, 100, 150, 1000)]
    assert overlong([], [], ids, max_tokens=100, buffer=20, factor=1.0) == [0, -0.5, -1, -1, -1]


@needs_torch
def test_trap_9_the_kl_in_the_loss_moves_dead_groups() -> None:
    """Advantage 0 is not gradient 0 (TRL #5588): only a mask leaves a dead group alone."""
    ns = torch_namespace("float64", 1e-12)
    for mask, moved in ((ONES, 0.05), (0 * ONES, 0.0)):
        leaf = ns.array(LOGPS).requires_grad_()
        arrays = {"mask": mask, "weights": mask, "advantages": 0 * ONES, "ref_logps": LOGPS - np.log(2)}
        PolicyLoss(kl_coef=0.1)(ns.xp, leaf, {name: ns.array(array) for name, array in arrays.items()})[0].backward()
        ns.close(leaf.grad, moved * ONES)


@needs_torch
def test_trap_10_sampling_log_probs_are_those_of_training_whatever_truncates() -> None:
    """Temperature divides the logits on both sides; top-p, top-k and penalties are no part of the log-prob."""
    import torch
    from mindrlhf_grpo_torch.generation.sampler import choose, penalised

    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0]])
    sampling = Sampling(max_tokens=1, temperature=0.8, top_p=0.5, top_k=2, repetition_penalty=1.3)
    shaped = penalised(logits.clone(), torch.tensor([[False, True, False, False]]), sampling)
    token, logp = choose(logits.clone(), shaped, torch.full((1, 1), 0.3, dtype=torch.float64), sampling)
    training = torch.log_softmax(logits / 0.8, dim=-1)
    assert token.tolist() == [0]
    assert float(logp) == pytest.approx(float(training[0, 0]), abs=1e-6)
    assert float(logp) < -0.1  # after top-p it would be certain
    assert sampling.truncated


@needs_torch
@pytest.mark.parametrize("loss", [PolicyLoss(), ItemPolicyLoss(items=3)], ids=["by token", "by item"])
def test_penalising_one_rank_leaves_the_other_ranks_alone_bit_for_bit(loss: PolicyLoss) -> None:
    """Rank 3 of one list is penalised, KL off: token advantages and gradients of the logits at ranks 1 and 2 stay."""
    import torch

    ns = torch_namespace("float32", 1e-6)
    random = np.random.default_rng(3)
    segments = np.array([[0, 0, 1, 1, 1, 2, 2, -1], [0, 1, 1, 2, 2, 2, -1, -1], [0, 0, 0, 1, 2, 2, -1, -1]], np.int32)
    lengths, tokens, vocabulary = np.array([8, 7, 6]), 8, 11
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.float32)
    ids = torch.tensor(random.integers(0, vocabulary, size=(3, tokens)))
    start = random.normal(size=(3, tokens, vocabulary))
    old = random.normal(scale=0.1, size=(3, tokens)) - np.log(vocabulary)
    rewards = random.random((3, 1, 3))

    def advantages_and_gradient(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        advantages = to_tokens(
            rank_grpo(values, ONE, np.zeros(3, np.int64), eps=1e-4, ddof=1), lengths, tokens, segments
        )
        logits = torch.tensor(start, dtype=torch.float32, requires_grad=True)
        logps = torch.log_softmax(logits, dim=-1).gather(2, ids[..., None])[..., 0]
        arrays = {"mask": mask, "weights": mask / mask.sum(), "advantages": advantages, "old_logps": old}
        tensors = {name: ns.array(array) for name, array in arrays.items()} | {"segments": torch.tensor(segments)}
        loss(ns.xp, logps, tensors)[0].backward()
        return advantages, logits.grad.numpy()

    penalised = rewards.copy()
    penalised[1, 0, 2] -= 0.7
    (before, slopes), (after, moved) = advantages_and_gradient(rewards), advantages_and_gradient(penalised)
    first_two = (segments == 0) | (segments == 1)
    np.testing.assert_array_equal(before[first_two], after[first_two])
    np.testing.assert_array_equal(slopes[first_two], moved[first_two])
    assert np.abs(slopes[first_two]).max() > 0
    assert (before[segments == 2] != after[segments == 2]).any()
    assert (slopes[segments == 2] != moved[segments == 2]).any()
