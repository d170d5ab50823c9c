"""The static shapes of training: few compilations, little padding, and the same after a resume."""

from __future__ import annotations

from mindrlhf_grpo_mindspore.training.buckets import COMPILING, Buckets, Cost, Sizes

SMOLLM2 = Cost(token=2.1e8, prediction=5.7e7, score=1.4e5)
TINY = Cost(token=2e5, prediction=2e3, score=1e3)
LIMITS = Sizes(prompts=16, group=8, prompt=1, completion=6, tokens=1, predicted=1)


def need(prompts: int, *, tokens: int, predicted: int, prompt: int = 20, completion: int = 6) -> Sizes:
    return Sizes(prompts=prompts, group=8, prompt=prompt, completion=completion, tokens=tokens, predicted=predicted)


def test_a_tiny_model_compiles_once() -> None:
    buckets = Buckets(TINY, shared=True, limits=LIMITS)
    for prompts in (3, 16, 1, 9):
        buckets.choose(need(prompts, tokens=prompts * 55, predicted=prompts * 40))
    assert len(buckets.known) == 1
    assert buckets.known[0].tokens >= 16 * 55


def test_a_growing_need_compiles_by_doubling() -> None:
    buckets = Buckets(SMOLLM2, shared=True, limits=LIMITS)
    for prompts in range(1, 17):
        sizes = need(prompts, tokens=prompts * 55, predicted=prompts * 40)
        chosen = buckets.choose(sizes)
        assert chosen.fits(sizes)
        assert SMOLLM2.of(chosen) <= 2.6 * SMOLLM2.of(sizes) or prompts == 1
    assert len(buckets.known) <= 6


def test_short_completions_are_not_padded_to_all_that_a_run_allows() -> None:
    """Scores of 512 tokens for completions of 7 took 6 GB for a model of two layers."""
    long = Sizes(prompts=8, group=8, prompt=1, completion=512, tokens=1, predicted=1)
    buckets = Buckets(Cost(token=5e4, prediction=4e3, score=256.0), shared=True, limits=long)
    chosen = buckets.choose(need(3, tokens=40, predicted=25, prompt=9, completion=7))
    assert chosen.completion == 16
    assert chosen.rows * chosen.completion * (chosen.prompt + chosen.completion) < 40_000


def test_padding_is_computed_until_it_has_cost_a_compilation() -> None:
    buckets = Buckets(SMOLLM2, shared=True, limits=LIMITS)
    large = buckets.choose(need(16, tokens=880, predicted=640))
    small = need(2, tokens=110, predicted=80)
    waste = SMOLLM2.of(large) - SMOLLM2.of(small)
    patient = int(COMPILING / waste)
    assert patient > 3
    assert [buckets.choose(small) is large for _ in range(patient)] == [True] * patient
    exact = buckets.choose(small)
    assert exact is not large
    assert SMOLLM2.of(exact) < 1.5 * SMOLLM2.of(small)
    assert buckets.choose(small) is exact


def test_a_resumed_run_chooses_as_the_interrupted_one() -> None:
    wanted = [
        need(1 + step * 7 % 16, tokens=60 + step * 97 % 800, predicted=50 + step * 31 % 500) for step in range(40)
    ]
    whole = Buckets(SMOLLM2, shared=True, limits=LIMITS)
    chosen = [whole.choose(sizes) for sizes in wanted]
    first, second = (Buckets(SMOLLM2, shared=True, limits=LIMITS) for _ in range(2))
    before = [first.choose(sizes) for sizes in wanted[:17]]
    second.restore(first.saved())
    assert before + [second.choose(sizes) for sizes in wanted[17:]] == chosen
