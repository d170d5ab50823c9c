"""The compiled sampler against torch's, which is tested against plain definitions, and against literal numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ms = pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")

from mindrlhf_grpo_mindspore.generation.sampler import CANDIDATES, Rule, Sampler, rule_of  # noqa: E402
from mindrlhf_grpo_mindspore.graph import Compiled  # noqa: E402
from mindrlhf_grpo_torch.generation.sampler import Sampler as TorchSampler  # noqa: E402
from mindspore import Tensor  # noqa: E402

from mindrlhf_grpo.backend import CompileLog  # noqa: E402
from mindrlhf_grpo.generation import sampling as core  # noqa: E402
from mindrlhf_grpo.types import Sampling  # noqa: E402

ROWS, VOCABULARY, ENDS = 6, 700, (7, 300)
RULES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0, "repetition_penalty": 1.3, "min_tokens": 2},
    {"temperature": 0.7, "min_tokens": 2},
    {"top_k": 9, "top_p": 0.5},
    {"min_p": 0.2, "repetition_penalty": 1.7},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2, "min_tokens": 3},
]


def per_level(uniforms: Any, vocabulary: int) -> NDArray[np.float64]:
    return core.per_level(np.asarray(uniforms, np.float64), core.depth(vocabulary))


class SampledTokens:
    """A compiled sampler fed with NumPy arrays."""

    def __init__(self, rule: Rule, *, slots: int = ROWS, vocabulary: int = VOCABULARY) -> None:
        self.sampler = Sampler(rule, slots=slots, vocabulary=vocabulary)
        self.step = Compiled("draw", self.sampler, CompileLog())

    def __call__(
        self, logits: NDArray[Any], uniforms: Any, *, early: Any = None, slots: Any = None
    ) -> tuple[list[int], NDArray[np.float32]]:
        rows = len(logits)
        early = np.zeros(rows, bool) if early is None else early
        slots = np.arange(rows) if slots is None else np.array(slots)
        tokens, logps = self.step(
            Tensor(np.asarray(logits, np.float32)), Tensor(per_level(uniforms, logits.shape[1])), Tensor(early),
            Tensor(slots.astype(np.int32)),
        )  # fmt: skip
        return tokens.asnumpy().tolist(), logps.asnumpy()


# the rules one by one: conformance
@pytest.mark.parametrize(
    "rule", [*(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES[:-1]), RULES[-1]], ids=str
)
def test_tokens_and_logps_equal_torchs_step_by_step(rule: dict[str, Any]) -> None:
    sampling = Sampling(max_tokens=8, **rule)
    ours = SampledTokens(rule_of(sampling, ENDS, VOCABULARY))
    theirs = TorchSampler(sampling, end_tokens=ENDS, slots=ROWS, vocab_size=VOCABULARY, device=torch.device("cpu"))
    random = np.random.default_rng(1)
    for slot in range(ROWS):
        prompt = random.integers(0, VOCABULARY, 90)
        theirs.start(slot, prompt)
        if ours.sampler.seen is not None:
            ours.sampler.seen[slot] = Tensor(np.isin(np.arange(VOCABULARY), prompt).astype(np.float32))
    for place in range(20):
        logits = (random.normal(size=(ROWS, VOCABULARY)) * 3).astype(np.float32)
        logits[:, list(ENDS)] += 4.0
        uniforms = random.random(ROWS)
        tokens, logps = ours(logits, uniforms, early=np.full(ROWS, place < sampling.min_tokens))
        numbers = torch.from_numpy(per_level(uniforms, VOCABULARY))
        expected = theirs.draw(torch.tensor(logits), numbers, list(range(ROWS)), [place] * ROWS)
        assert tokens == expected[0].tolist()
        np.testing.assert_allclose(logps, expected[1].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("vocabulary", [3, 16, 17, 256, 257])
def test_vocabularies_that_fill_no_level_or_one_or_a_little_more(vocabulary: int) -> None:
    draw, random = SampledTokens(Rule(), vocabulary=vocabulary), np.random.default_rng(0)
    for _ in range(10):
        logits = random.normal(size=(ROWS, vocabulary)).astype(np.float32)
        uniforms = random.random(ROWS)
        shares = np.exp(logits.astype(np.float64))
        shares /= shares.sum(1, keepdims=True)
        expected = core.choose(shares, uniforms)
        tokens, logps = draw(logits, uniforms)
        assert tokens == expected.tolist()
        np.testing.assert_allclose(logps, np.log(shares[np.arange(ROWS), expected]), rtol=0, atol=1e-5)


def test_top_p_that_needs_more_than_the_candidates_sorts_everything() -> None:
    vocabulary = 2 * CANDIDATES
    logits = np.zeros((2, vocabulary), np.float32)
    logits[0] = np.linspace(0, 0.1, vocabulary)
    logits[1, 5] = 20.0
    shares = np.exp(logits[0].astype(np.float64))
    likeliest = np.sort(shares / shares.sum())[::-1].cumsum()
    dropped = vocabulary - 1 - int((likeliest < 0.9).sum())
    assert dropped < CANDIDATES
    shares[:dropped] = 0.0
    draw = SampledTokens(Rule(top_p=0.9), vocabulary=vocabulary)
    for number in (0.0, 0.3, 0.9, 1 - 2**-53):
        assert draw(logits, [number] * 2)[0] == [int(core.choose(shares[None], np.array([number]))[0]), 5]


def test_no_token_of_weight_zero_at_either_end() -> None:
    logits = np.full((2, 600), -1e30, np.float32)
    logits[:, 300:303] = 0.0
    tokens, logps = SampledTokens(Rule(), vocabulary=600)(logits, [0.0, 1 - 2**-53])
    assert tokens == core.choose(np.exp(logits.astype(np.float64)), np.array([0.0, 1 - 2**-53])).tolist()
    assert set(tokens) <= {300, 301, 302}
    np.testing.assert_allclose(logps, np.log([1 / 3, 1 / 3]), atol=1e-6)


def test_a_row_depends_on_nothing_but_itself() -> None:
    draw, random = SampledTokens(Rule(temperature=0.8)), np.random.default_rng(3)
    logits, uniforms = random.normal(size=(ROWS, VOCABULARY)).astype(np.float32), random.random(ROWS)
    tokens, logps = draw(logits, uniforms)
    order = [4, 1, 0, 5, 2, 3]
    turned, turned_logps = draw(logits[order], uniforms[order])
    assert turned == [tokens[row] for row in order]
    np.testing.assert_array_equal(turned_logps, logps[order])


def test_penalties_follow_the_slot_and_what_is_drawn() -> None:
    draw = SampledTokens(Rule(temperature=0.0, repetition_penalty=100.0), slots=3, vocabulary=4)
    logits = np.array([[0.4, 0.3, 0.2, 0.1]] * 2)
    assert draw(logits, [0.0, 0.0], slots=[0, 2])[0] == [0, 0]
    assert draw(logits, [0.0, 0.0], slots=[2, 1])[0] == [1, 0]
    assert draw.sampler.seen.asnumpy().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_logits_that_are_not_numbers_give_a_logp_that_is_none() -> None:
    logits = np.zeros((2, 300), np.float32)
    logits[1, 40] = np.nan
    tokens, logps = SampledTokens(Rule(), vocabulary=300)(logits, [0.5, 0.5])
    assert (tokens[0], bool(np.isnan(logps[1]))) == (int(core.choose(np.ones((1, 300)), np.array([0.5]))[0]), True)


def test_a_rule_holds_only_what_shapes_the_computation() -> None:
    one = rule_of(Sampling(max_tokens=5, seed=1, temperature=0.0, top_k=3), (2, 900), 700)
    other = rule_of(Sampling(max_tokens=9, seed=2, temperature=0.0, stop=("x",)), (), 700)
    assert one == other == Rule(temperature=0.0)
    assert rule_of(Sampling(max_tokens=5, min_tokens=2), (900, 2, 2), 700).end_tokens == (2,)
