"""Shared and plain layouts: the model input of a batch; padding and neighbours change no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_policy import VOCABULARY, make_batch, run_config, weighted_loss, write_model

pytest.importorskip("mindspore")

import mindrlhf_grpo_mindspore
from mindrlhf_grpo_mindspore.training.buckets import Sizes
from mindrlhf_grpo_mindspore.training.layouts import needed, plain_input, shared_input

from mindrlhf_grpo.types import Batch

GROUPS = [(5, [3, 7, 1]), (2, [4, 4]), (9, [6])]
SMALL = Sizes(prompts=3, group=3, prompt=9, completion=7, tokens=36, predicted=25)
LARGE = Sizes(prompts=4, group=4, prompt=16, completion=8, tokens=64, predicted=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("layouts") / "model")


@pytest.fixture(scope="module")
def policies(folder: Path) -> dict[str, Any]:
    """One policy per layout, compiled once for all tests of log-probs."""
    return {name: load(folder, layout=name) for name in ("shared", "plain")}


def load(folder: Path, **model: Any) -> Any:
    return mindrlhf_grpo_mindspore.build(run_config(folder, device="cpu", **model)).load_policy()


def pad_to(policy: Any, sizes: Sizes) -> None:
    """Let the policy know this bucket alone, so that it takes it."""
    policy.buckets.known = [sizes]


def test_a_prompt_is_packed_once_and_the_last_token_of_a_completion_is_not_computed() -> None:
    batch = make_batch(GROUPS)
    need = needed(batch, shared=True)
    assert need == replace(SMALL, tokens=16 + (2 + 6 + 0) + (3 + 3) + 5 + 1)  # and one that pads
    inputs = shared_input(batch, LARGE)
    assert inputs.ids.asnumpy()[:16].tolist() == np.concatenate(batch.prompts).tolist()
    assert inputs.positions.asnumpy()[:18].tolist() == [*range(5), *range(2), *range(9), 5, 6]
    assert inputs.inside.asnumpy().sum() == 25
    assert inputs.inside.asnumpy()[len(batch) :].sum() == 0


def test_every_token_is_predicted_from_the_one_before_it() -> None:
    batch = make_batch(GROUPS)
    plain = replace(LARGE, prompts=8, group=1, tokens=8 * 24)
    for inputs in (shared_input(batch, LARGE), plain_input(batch, plain)):
        ids, predictors, rows = (tensor.asnumpy() for tensor in (inputs.ids, inputs.predictors, inputs.rows))
        for row, length in enumerate(batch.lengths):
            before = [batch.prompts[batch.prompt_of[row]][-1], *batch.ids[row, : length - 1]]
            assert ids[predictors[rows[row, :length]]].tolist() == [int(token) for token in before]
            assert inputs.targets.asnumpy()[rows[row, :length]].tolist() == batch.ids[row, :length].tolist()


def test_tokens_go_to_rows_and_back() -> None:
    """The permutation of the shared layout: every real place is read once each way, padding reads padding."""
    prompts, completions, places, *_ = (tensor.asnumpy() for tensor in shared_input(make_batch(GROUPS), LARGE).plan)
    both, last = np.concatenate([prompts, completions]), LARGE.tokens - 1
    real = 16 + 19
    assert both[places[:real]].tolist() == list(range(real))
    assert sorted(both[both < last]) == list(range(real))
    assert (both[places[real:]] == last).all()


@pytest.mark.slow  # conformance: gradients_do_not_depend_on_micro_batches
def test_padding_changes_no_loss_and_no_gradient(folder: Path) -> None:
    batch, policy = make_batch(GROUPS), load(folder)
    results = []
    for sizes in (SMALL, LARGE):
        pad_to(policy, sizes)
        (part,), gradients = policy.backward(batch, weighted_loss)
        assert policy.buckets.known == [sizes]
        results.append((part, [gradient.asnumpy() for gradient in gradients]))
    (small, tight), (large, loose) = results
    assert large == pytest.approx(small, rel=1e-6)
    total = np.sqrt(sum(np.square(gradient).sum() for gradient in tight))
    for one, other in zip(tight, loose, strict=True):
        assert np.linalg.norm(one - other) <= 1e-6 * max(np.linalg.norm(one), 0.01 * total)


def test_both_layouts_give_the_same_log_probs_for_any_grouping(policies: dict[str, Any]) -> None:
    pad_to(policies["shared"], Sizes(prompts=4, group=5, prompt=16, completion=16, tokens=256, predicted=256))
    pad_to(policies["plain"], Sizes(prompts=16, group=1, prompt=16, completion=16, tokens=512, predicted=256))
    random = np.random.default_rng(0)
    for seed in range(12):
        groups = [
            (int(random.integers(1, 13)), random.integers(1, 15, random.integers(1, 5)).tolist())
            for _ in range(random.integers(1, 5))
        ]
        batch = make_batch(groups, seed=seed, temperature=float(random.uniform(0.5, 1.5)))
        shared, plain = (policy.logps(batch).logps for policy in (policies["shared"], policies["plain"]))
        np.testing.assert_allclose(shared, plain, rtol=0, atol=1e-5)
        assert (shared[batch.mask == 0] == 0).all()
    assert [len(policy.log.entries) for policy in policies.values()] == [1, 1]


def test_completions_do_not_see_each_other(policies: dict[str, Any]) -> None:
    policy = policies["shared"]
    batch: Batch = make_batch([(4, [6, 6])])
    before = policy.logps(batch).logps
    batch.ids[1] = (batch.ids[1] + 1) % VOCABULARY
    after = policy.logps(batch).logps
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
