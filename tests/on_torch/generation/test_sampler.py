"""The sampler against a plain NumPy reference, literal cases, Hugging Face's processors, and frequencies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mindrlhf_grpo_torch.generation.sampler import CANDIDATES, Sampler, choose, invert_cdf, truncated_weights
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.generation import sampling as core
from mindrlhf_grpo.types import Sampling

Array = NDArray[np.float64]


def sampling(**settings: float) -> Sampling:
    return Sampling(max_tokens=8, **settings)


def probabilities(logits: Array, rule: Sampling) -> Array:
    """Return the distribution of one row's tokens, ``[V]`` float64, straight from the definitions."""
    weights = np.exp((logits - logits.max()) / rule.temperature)
    if rule.top_k:
        weights[weights < np.sort(weights)[-min(rule.top_k, len(weights))]] = 0
    share = weights / weights.sum()
    if rule.top_p < 1:
        ranked = np.sort(share)[::-1]
        last = int((np.cumsum(ranked) - ranked < rule.top_p).sum()) - 1
        weights[share < ranked[last]] = 0
    weights[weights < rule.min_p * weights.max()] = 0
    return weights / weights.sum()


def reference(logits: Array, uniform: float, rule: Sampling) -> tuple[int, float]:
    """Token and log-prob of one row."""
    share = probabilities(logits, rule)
    token = int(core.choose(share[None], np.array([uniform]))[0])
    scaled = logits / rule.temperature
    return token, float(scaled[token] - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum()))


def per_level(uniforms: list[float] | Array, vocabulary: int) -> Tensor:
    """``[n, D]`` as the runner makes it."""
    return torch.from_numpy(core.per_level(np.asarray(uniforms), core.depth(vocabulary)))


def draw(logits: Array, uniforms: list[float], rule: Sampling) -> tuple[list[int], list[float]]:
    rows = torch.tensor(logits, dtype=torch.float32)
    tokens, logps = choose(rows, rows, per_level(uniforms, logits.shape[1]), rule)
    return tokens.tolist(), logps.tolist()


RULES = [
    sampling(),
    sampling(temperature=0.7),
    sampling(temperature=1.5, top_k=5),
    sampling(top_p=0.8),
    sampling(top_k=9, top_p=0.5),
    sampling(min_p=0.2),
    sampling(temperature=0.9, top_k=20, top_p=0.9, min_p=0.05),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), vocabulary=st.sampled_from([3, 255, 256, 257, 700]))
def test_token_and_logp_equal_the_numpy_reference(rule: Sampling, seed: int, vocabulary: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(4, vocabulary)).astype(np.float32).astype(np.float64) * 3
    uniforms = random.random(4).tolist()
    tokens, logps = draw(logits, uniforms, rule)
    expected = [reference(row, uniform, rule) for row, uniform in zip(logits, uniforms, strict=True)]
    assert tokens == [token for token, _ in expected]
    np.testing.assert_allclose(logps, [logp for _, logp in expected], rtol=0, atol=1e-5)


def test_inverse_cdf_literally() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]] * 5))
    tokens, logps = draw(logits, [0.0, 0.09, 0.11, 0.59, 0.61], sampling())
    assert tokens == [0, 0, 1, 2, 3]
    np.testing.assert_allclose(logps, np.log([0.1, 0.1, 0.2, 0.3, 0.4]), atol=1e-6)


def test_truncation_literally() -> None:
    share = torch.tensor([[0.1, 0.2, 0.3, 0.4]])

    def kept(**rule: float) -> list[int]:
        return truncated_weights(share.log(), sampling(**rule))[0].nonzero()[:, 0].tolist()

    assert kept(top_k=2) == [2, 3]
    assert kept(top_p=0.6) == [2, 3]
    assert kept(top_p=0.75) == [1, 2, 3]
    assert kept(top_p=0.01) == [3]
    assert kept(min_p=0.45) == [1, 2, 3]
    assert kept(top_k=3, top_p=0.5) == [2, 3]
    assert kept(top_k=100) == [0, 1, 2, 3]


def test_ties_with_the_last_kept_token_are_kept() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 3.0]])
    assert truncated_weights(logits, sampling(top_k=2))[0].nonzero()[:, 0].tolist() == [1, 2, 3, 4]


def test_recorded_logp_is_that_before_truncation() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]]))
    assert draw(logits, [0.0], sampling(top_k=1)) == ([3], pytest.approx([np.log(0.4)], abs=1e-6))


def test_greedy_takes_the_largest_and_records_temperature_one() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]]))
    assert draw(logits, [0.99, 0.99], sampling(temperature=0.0)) == (
        [1, 0],
        pytest.approx([np.log(0.6), np.log(0.5)], abs=1e-6),
    )


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_of_zero_probability_is_never_drawn(uniform: float) -> None:
    weights = torch.zeros(3, 775)
    weights[0, 5] = weights[1, 256] = weights[2, -1] = 0.3
    tokens, total = invert_cdf(weights, torch.full((3, 3), uniform, dtype=torch.float64))
    assert tokens.tolist() == [5, 256, 774]
    assert total.tolist() == pytest.approx([0.3] * 3)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 5000, generator=random)
    uniforms = torch.rand(16, core.depth(5000), dtype=torch.float64, generator=random)
    for rule in RULES:
        together, logps = choose(logits.clone(), logits.clone(), uniforms, rule)
        rows = [choose(row := logits[i : i + 1].clone(), row, uniforms[i : i + 1], rule) for i in range(16)]
        assert together.tolist() == [int(tokens) for tokens, _ in rows]
        np.testing.assert_allclose(logps.numpy(), [float(logp) for _, logp in rows], rtol=0, atol=2e-6)


def test_top_p_over_more_tokens_than_are_tried_first() -> None:
    flat = torch.zeros(1, 4 * CANDIDATES) + torch.linspace(0, 0.1, 4 * CANDIDATES)
    share = torch.softmax(flat[0].double(), -1)
    kept = truncated_weights(flat, sampling(top_p=0.9))[0] > 0
    assert float(share[kept].sum()) == pytest.approx(0.9, abs=1e-3)
    assert int(kept.sum()) > 3 * CANDIDATES
    assert kept[-1]


@pytest.mark.parametrize("rule", RULES[:4], ids=str)
def test_frequencies_follow_the_distribution(rule: Sampling) -> None:
    logits, draws = np.linspace(-1.5, 1.5, 12), 20_000
    rows = torch.tensor(np.repeat(logits[None], draws, 0), dtype=torch.float32)
    uniforms = torch.rand(draws, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens, _ = choose(rows, rows, uniforms, rule)
    expected = probabilities(logits, rule) * draws
    found = np.bincount(tokens.numpy(), minlength=12)
    assert found[expected == 0].sum() == 0
    live = expected > 0
    chi_square = float(((found[live] - expected[live]) ** 2 / expected[live]).sum())
    assert chi_square < 31.3  # 0.1 % point at 11 degrees of freedom


def sampler(rule: Sampling, *, end_tokens: tuple[int, ...] = (), slots: int = 2, vocabulary: int = 6) -> Sampler:
    return Sampler(rule, end_tokens=end_tokens, slots=slots, vocab_size=vocabulary, device=torch.device("cpu"))


def zeros(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.float64)


def test_repetition_penalty_equals_hugging_face_over_prompt_and_completion() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    rule = sampling(temperature=0.0, repetition_penalty=1.7)
    mine, theirs = sampler(rule, vocabulary=40), RepetitionPenaltyLogitsProcessor(1.7)
    prompt = [3, 7, 7, 21]
    mine.start(1, np.array(prompt, dtype=np.int32))
    seen = list(prompt)
    random = torch.Generator().manual_seed(3)
    for position in range(12):
        logits = torch.randn(1, 40, generator=random) * 2
        expected = int(theirs(torch.tensor([seen]), logits.clone()).argmax())
        logp = float(torch.log_softmax(logits, -1)[0, expected])
        tokens, logps = mine.draw(logits, zeros(1), [1], [position])
        assert tokens.tolist() == [expected]
        assert logps.tolist() == pytest.approx([logp], abs=1e-6)
        seen.append(expected)


def test_a_new_sample_in_a_slot_forgets_the_old_one() -> None:
    mine = sampler(sampling(temperature=0.0, repetition_penalty=100.0))
    mine.start(0, np.array([5]))
    mine.start(0, np.array([1]))
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    assert mine.draw(logits.clone(), zeros(1), [0], [0])[0].tolist() == [5]
    mine.move(0, 1)
    assert mine.draw(logits.clone(), zeros(1), [1], [1])[0].tolist() == [4]


def test_end_tokens_wait_for_the_minimum_length() -> None:
    mine = sampler(sampling(temperature=0.0, min_tokens=2), end_tokens=(4, 5))
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]).repeat(2, 1)
    tokens, logps = mine.draw(logits.clone(), zeros(2), [0, 1], [1, 2])
    assert tokens.tolist() == [3, 5]
    np.testing.assert_allclose(logps, torch.log_softmax(logits, -1)[[0, 1], [3, 5]], atol=1e-6)
