"""One denominator: however a batch is cut, loss and gradient are the same; and the cuts themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.batches.online import (
    build_batch,
    completion_lengths,
    computed_tokens,
    dead_groups,
    denominators,
    loss_weights,
    micro_batches,
)
from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.types import Batch, FinishReason, Prompt, Rollout, RolloutGroup

NAN = float("nan")
MODES = ("token_mean", "sequence_mean", "sequence_sum", "constant", "token_sum")
MAX_TOKENS = 10


def group(uid: int, prompt_tokens: int, lengths: list[int]) -> RolloutGroup:
    """A group whose token ids and log-probs tell where they come from."""
    rollouts = tuple(
        Rollout(
            sample=sample,
            ids=np.arange(1, length + 1) + 1000 * uid + 100 * sample,
            logps=-np.arange(1, length + 1, dtype=np.float32) - sample,
            finish=FinishReason.STOP,
            text="",
        )
        for sample, length in enumerate(lengths)
    )
    return RolloutGroup(prompt=Prompt(uid=uid, ids=np.full(prompt_tokens, uid), text=""), rollouts=rollouts)


def length_mask(lengths: list[int] | np.ndarray) -> np.ndarray:
    width = max(lengths, default=0)
    return (np.arange(width)[None, :] < np.asarray(lengths)[:, None]).astype(np.float32)


def batch_of(groups: list[RolloutGroup], seed: int = 0) -> Batch:
    mask = length_mask(completion_lengths(groups))
    random = np.random.default_rng(seed)
    advantages = random.normal(size=mask.shape).astype(np.float32)
    return build_batch(groups, advantages, weights=mask / mask.sum(), temperature=0.7, mask=mask)


# --- loss weights ----------------------------------------------------------------------------------------------------

MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]], np.float32)


@pytest.mark.parametrize(
    ("mode", "per_row"),
    [
        ("token_mean", [1 / 8, 1 / 8, 0, 1 / 8]),
        ("sequence_mean", [1 / 12, 1 / 6, 0, 1 / 6]),
        ("sequence_sum", [1 / 3, 1 / 3, 0, 1 / 3]),
        ("constant", [1 / 30, 1 / 30, 0, 1 / 30]),
        ("token_sum", [1, 1, 0, 1]),
    ],
)
def test_weights_of_each_mode(mode: str, per_row: list[float]) -> None:
    got = loss_weights(MASK, mode, tokens=8, sequences=3, max_tokens=MAX_TOKENS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.asarray(per_row)[:, None] * MASK, rtol=6e-8)


def test_masked_rows_count_as_sequences_in_trl_and_not_in_verl() -> None:
    trained = MASK.sum(axis=1)
    assert denominators(trained, count_masked_rows=False) == (8, 3)
    assert denominators(trained, count_masked_rows=True) == (8, 4)
    assert denominators(0 * trained, count_masked_rows=False) == (0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_denominator_after_masking_truncated_samples(mode: str) -> None:
    """A truncated completion leaves numerator and denominator: the rest weighs as if it had never been sampled."""
    keep = MASK.any(axis=1)
    tokens, sequences = denominators(MASK.sum(axis=1), count_masked_rows=False)
    with_masked = loss_weights(MASK, mode, tokens=tokens, sequences=sequences, max_tokens=MAX_TOKENS)
    tokens, sequences = denominators(MASK[keep].sum(axis=1), count_masked_rows=True)
    without = loss_weights(MASK[keep], mode, tokens=tokens, sequences=sequences, max_tokens=MAX_TOKENS)
    np.testing.assert_array_equal(with_masked[keep], without)
    assert (with_masked[~keep] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_trained_gives_zero_weights(mode: str) -> None:
    got = loss_weights(np.zeros((2, 3), np.float32), mode, tokens=0, sequences=0, max_tokens=MAX_TOKENS)
    assert (got == 0).all()


def test_unknown_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match="aggregation 'mean' is unknown; there are token_mean, sequence_mean"):
        loss_weights(MASK, "mean", tokens=1, sequences=1, max_tokens=1)
    with pytest.raises(ValueError, match=r"mask must be \[N, T\]"):
        loss_weights(MASK[0], "token_mean", tokens=1, sequences=1, max_tokens=1)


def textbook(mode: str, losses: np.ndarray, mask: np.ndarray) -> float:
    """Each aggregation as its paper writes it, over one undivided batch."""
    counts = mask.sum(axis=1)
    rows = counts > 0
    sums = (losses * mask).sum(axis=1)[rows]
    if mode == "token_mean":
        return float(sums.sum() / counts.sum())
    if mode == "sequence_mean":
        return float((sums / counts[rows]).mean())
    if mode == "sequence_sum":
        return float(sums.mean())
    if mode == "constant":
        return float(sums.mean() / MAX_TOKENS)
    return float(sums.sum())


@st.composite
def cut_batches(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray]]:
    """A mask ``[N, T]`` with holes and empty rows, and its rows dealt to ranks x micro-batches."""
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    bits = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    mask = np.asarray(bits, np.float32).reshape(rows, width)
    mask[0, 0] = 1
    order = np.asarray(draw(st.permutations(range(rows))))
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=5)))
    return mask, [part for part in np.split(order, cuts) if len(part)]


@settings(max_examples=80, deadline=None)
@given(cut_batches(), st.sampled_from(MODES), st.integers(0, 2**32))
def test_any_cut_into_ranks_and_micro_batches_gives_the_same_loss_and_gradient(
    cut: tuple[np.ndarray, list[np.ndarray]], mode: str, seed: int
) -> None:
    torch = pytest.importorskip("torch")
    from mindrlhf_grpo_torch import xp

    mask, parts = cut
    random = np.random.default_rng(seed)
    old = -random.exponential(size=mask.shape)
    arrays = {
        "mask": mask,
        "advantages": random.normal(size=mask.shape),
        "old_logps": old,
        "ref_logps": old + random.normal(scale=0.2, size=mask.shape),
    }
    leaf = torch.tensor(old + random.normal(scale=0.3, size=mask.shape), requires_grad=True)
    loss = PolicyLoss(dual_clip=3.0, kl_coef=0.1)
    tokens, sequences = denominators(mask.sum(axis=1), count_masked_rows=False)

    def summed(pieces: list[np.ndarray]) -> tuple[float, np.ndarray, dict[str, float]]:
        """Loss, gradient and metric sums when each piece weighs its own rows by the global denominators."""
        leaf.grad = None
        total, sums = 0.0, dict.fromkeys(("kl", "ratio", "clip_low", "clip_high"), 0.0)
        for rows in pieces:
            weights = loss_weights(mask[rows], mode, tokens=tokens, sequences=sequences, max_tokens=MAX_TOKENS)
            given_arrays = {name: torch.tensor(array[rows]) for name, array in arrays.items()}
            value, part = loss(xp, leaf[rows], given_arrays | {"weights": torch.tensor(weights)})
            value.backward()
            total += value.item()
            sums = {name: sums[name] + float(part[name]) for name in sums}
        return total, leaf.grad.numpy().copy(), sums

    whole, gradient, metrics = summed([np.arange(len(mask))])
    cut_whole, cut_gradient, cut_metrics = summed(parts)
    np.testing.assert_allclose(cut_whole, whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cut_gradient, gradient, rtol=1e-12, atol=1e-12)
    assert cut_metrics == pytest.approx(metrics, rel=1e-12, abs=1e-12)

    per_token = np.zeros(mask.shape)
    for index in np.argwhere(mask > 0):
        alone = np.zeros(mask.shape)
        alone[tuple(index)] = 1
        per_token[tuple(index)] = loss(NUMPY, leaf.detach().numpy(), arrays | {"weights": alone})[0]
    # the weights are float32, so they carry its rounding
    np.testing.assert_allclose(whole, textbook(mode, per_token, mask), rtol=1e-6, atol=1e-6)


# --- dead groups -----------------------------------------------------------------------------------------------------


def test_dead_groups_have_equal_rewards() -> None:
    total = np.array([[1.0], [1.0], [1.0], [0.0], [0.1], [0.1]])
    assert dead_groups(total, np.array([0, 0, 1, 1, 2, 2])).tolist() == [True, False, True]


def test_equal_rewards_are_dead_although_their_std_is_not_zero() -> None:
    total = np.full((3, 1), 0.1)
    assert np.std(total) > 0
    assert dead_groups(total, np.zeros(3, int)).tolist() == [True]


def test_dead_groups_leave_unscored_samples_out() -> None:
    total = np.array([[1.0], [NAN], [1.0], [1.0], [NAN], [0.0], [NAN], [NAN]])
    assert dead_groups(total, np.array([5, 5, 5, 6, 6, 6, 7, 7])).tolist() == [True, False, True]


def test_group_lives_if_one_segment_or_component_differs() -> None:
    assert dead_groups(np.array([[1.0, 2.0], [1.0, 3.0]]), np.zeros(2)).tolist() == [False]
    opposite = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])  # components differ, their sum does not
    assert dead_groups(opposite.sum(axis=1), np.zeros(2)).tolist() == [True]
    assert dead_groups(opposite, np.zeros(2)).tolist() == [False]
    assert dead_groups(np.zeros((0, 1)), np.zeros(0, int)).tolist() == []


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batch_holds_each_prompt_once_and_pads_completions() -> None:
    batch = batch_of([group(1, 3, [2, 4]), group(2, 1, [1])])
    assert [prompt.tolist() for prompt in batch.prompts] == [[1, 1, 1], [2]]
    assert batch.prompt_of.tolist() == [0, 0, 1]
    assert batch.lengths.tolist() == [2, 4, 1]
    assert batch.ids.tolist() == [[1001, 1002, 0, 0], [1101, 1102, 1103, 1104], [2001, 0, 0, 0]]
    assert batch.rollout_logps is not None
    assert batch.rollout_logps.tolist() == [[-1, -2, 0, 0], [-2, -3, -4, -5], [-1, 0, 0, 0]]
    assert batch.temperature == 0.7
    assert batch.old_logps is batch.ref_logps is batch.segments is None
    assert set(batch.loss_tensors()) == {"mask", "weights", "advantages", "rollout_logps"}


def test_empty_batch() -> None:
    batch = batch_of([])
    assert len(batch) == 0
    assert batch.ids.shape == (0, 0)
    assert micro_batches(batch, 100, shared=True) == []


def test_misshapen_and_leaking_masks_are_refused() -> None:
    groups = [group(1, 2, [1, 2])]
    good = length_mask([1, 2])
    with pytest.raises(ValueError, match=r"weights must be \[2, 2\] for these completions, not \[2, 3\]"):
        build_batch(groups, good, weights=np.zeros((2, 3), np.float32), temperature=1.0, mask=good)
    with pytest.raises(ValueError, match="not 0 past the end"):
        build_batch(groups, good, weights=good, temperature=1.0, mask=np.ones((2, 2), np.float32))


GROUPS = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(0, 9), min_size=1, max_size=5)), min_size=1, max_size=6
).map(lambda shapes: [group(uid, prompt, lengths) for uid, (prompt, lengths) in enumerate(shapes)])


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.data())
def test_take_keeps_rows_whole(groups: list[RolloutGroup], data: st.DataObject) -> None:
    batch = batch_of(groups)
    batch = replace(batch, segments=np.where(batch.mask > 0, 2, -1).astype(np.int32))
    order = data.draw(st.permutations(range(len(batch))))
    rows = order[: data.draw(st.integers(1, len(batch)))]
    part = batch.take(rows)
    assert len(part) == len(rows)
    assert part.ids.shape[1] == max(batch.lengths[rows])
    assert len(part.prompts) == len({batch.prompt_of[row] for row in rows})
    for new, row in enumerate(rows):
        length = batch.lengths[row]
        assert part.lengths[new] == length
        np.testing.assert_array_equal(part.prompts[part.prompt_of[new]], batch.prompts[batch.prompt_of[row]])
        np.testing.assert_array_equal(part.ids[new, :length], batch.ids[row, :length])
        for name, array in batch.loss_tensors().items():
            np.testing.assert_array_equal(part.loss_tensors()[name][new, :length], array[row, :length])
            assert part.loss_tensors()[name].dtype == array.dtype
    back = batch.take(order).take(np.argsort(order))
    np.testing.assert_array_equal(back.ids, batch.ids)
    np.testing.assert_array_equal(back.prompt_of, batch.prompt_of)
    np.testing.assert_array_equal(back.rollout_logps, batch.rollout_logps)


# --- micro-batches ---------------------------------------------------------------------------------------------------


def test_prompt_is_counted_once_when_shared() -> None:
    batch = batch_of([group(0, 10, [2, 4]), group(1, 6, [3])])
    prompts = np.array([10, 6])
    assert computed_tokens(batch, [0, 1], prompts, shared=True) == 10 + 2 + 4
    assert computed_tokens(batch, [0, 1], prompts, shared=False) == 2 * (10 + 4)
    assert computed_tokens(batch, [0, 2], prompts, shared=True) == 10 + 2 + 6 + 3
    assert computed_tokens(batch, [0, 2], prompts, shared=False) == 2 * (10 + 2)
    assert computed_tokens(batch, [2], prompts, shared=False) == 6 + 3


def test_sharing_prompts_fits_more_rows() -> None:
    batch = batch_of([group(0, 100, [4] * 8), group(1, 100, [4] * 8)])
    assert [len(rows) for rows in micro_batches(batch, 132, shared=True)] == [8, 8]
    assert [len(rows) for rows in micro_batches(batch, 264, shared=True)] == [16]
    assert [len(rows) for rows in micro_batches(batch, 208, shared=False)] == [2] * 8


def test_longest_groups_come_first() -> None:
    batch = batch_of([group(0, 1, [1, 2]), group(1, 1, [9, 9]), group(2, 1, [3, 3])])
    assert [rows.tolist() for rows in micro_batches(batch, 19, shared=True)] == [[2, 3], [4, 5, 0, 1]]


def test_group_over_the_budget_is_cut_by_length() -> None:
    batch = batch_of([group(0, 4, [1, 8, 1, 7, 1])])
    assert [rows.tolist() for rows in micro_batches(batch, 19, shared=True)] == [[1, 3], [0, 2, 4]]
    assert [rows.tolist() for rows in micro_batches(batch, 15, shared=False)] == [[1], [3], [0, 2, 4]]


@settings(max_examples=120, deadline=None)
@given(GROUPS, st.integers(1, 150), st.booleans())
def test_micro_batches_partition_the_rows_within_the_budget(
    groups: list[RolloutGroup], budget: int, shared: bool
) -> None:
    batch = batch_of(groups)
    prompts = np.array([len(prompt) for prompt in batch.prompts])
    parts = micro_batches(batch, budget, shared=shared)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(batch)))
    for rows in parts:
        assert len(rows) == 1 or computed_tokens(batch, rows, prompts, shared=shared) <= budget
    for number in range(len(groups)):
        own = np.flatnonzero(batch.prompt_of == number)
        if computed_tokens(batch, own, prompts, shared=shared) <= budget:
            assert sum(np.isin(own, rows).any() for rows in parts) == 1
    again = micro_batches(batch, budget, shared=shared)
    assert [rows.tolist() for rows in again] == [rows.tolist() for rows in parts]


def test_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="token_budget must be at least 1, not 0"):
        micro_batches(batch_of([group(0, 1, [1])]), 0, shared=True)
