"""The packing plan: every trained token is predicted from exactly the state before it, in both layouts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.batches.packing import (
    PackingPlan,
    flat_ids,
    flat_positions,
    image_places,
    plain_plan,
    shared_plan,
    text_positions,
)
from mindrlhf_grpo.types import Batch

IMAGE = 99  # the id of an image's tokens
PADDING = -1


@st.composite
def cases(draw: st.DrawFn) -> tuple[Batch, ReadAt]:
    """Prompts of several lengths, completions in any order, some empty, in arrays wider than the longest of them.

    A prompt may be empty where values are read at the tokens; ids are those of images more often than not.
    """
    read_at: ReadAt = draw(st.sampled_from(["before", "token"]))
    prompt = st.lists(st.sampled_from([5, 6, IMAGE, IMAGE]), min_size=int(read_at == "before"), max_size=6)
    prompts = draw(st.lists(prompt, min_size=1, max_size=4))
    others = st.lists(st.integers(0, len(prompts) - 1), max_size=6)
    prompt_of = draw(st.permutations([*range(len(prompts)), *draw(others)]))
    lengths = np.array(draw(st.lists(st.integers(0, 5), min_size=len(prompt_of), max_size=len(prompt_of))), np.int32)
    width = int(lengths.max()) + draw(st.integers(0, 2))
    inside = np.arange(width) < lengths[:, None]
    ids = np.where(inside, np.arange(100, 100 + inside.size).reshape(inside.shape), 0).astype(np.int32)
    zeros = np.zeros(ids.shape, np.float32)
    batch = Batch(
        prompts=tuple(np.array(prompt, np.int32) for prompt in prompts),
        prompt_of=np.array(prompt_of, np.int32),
        ids=ids,
        lengths=lengths,
        mask=inside.astype(np.float32),
        weights=zeros,
        advantages=zeros,
    )
    return batch, read_at


def plans(batch: Batch, read_at: ReadAt) -> list[PackingPlan]:
    """Shared, plain, and plain in rows of another width."""
    plain = plain_plan(batch, read_at)
    return [shared_plan(batch, read_at), plain, plain_plan(batch, read_at, width=plain.tokens // len(batch) + 3)]


def seen(plan: PackingPlan) -> NDArray[np.bool_]:
    """``[S, S]``: the places that a causal model sees from each place: its own span up to it, and its prompt."""
    sequence, member = np.full(plan.tokens, PADDING), np.full(plan.tokens, PADDING)
    for copy, (start, length) in enumerate(zip(plan.prompt_starts, plan.prompt_lengths, strict=True)):
        sequence[start : start + length] = copy
    for row, (start, length) in enumerate(zip(plan.starts, plan.computed, strict=True)):
        sequence[start : start + length] = plan.copies[row]
        member[start : start + length] = row
    same = (sequence[:, None] == sequence[None, :]) & (sequence != PADDING)
    ancestor = (member[None, :] == member[:, None]) | (member[None, :] == PADDING)
    return np.asarray(same & ancestor & np.tri(plan.tokens, dtype=bool))


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_every_token_is_predicted_from_exactly_what_comes_before_it(case: tuple[Batch, ReadAt]) -> None:
    batch, read_at = case
    for plan in plans(batch, read_at):
        ids, visible = flat_ids(batch, plan), seen(plan)
        assert len(plan.predictors) == batch.lengths.sum()
        for predictor, row, column in zip(plan.predictors, plan.rows, plan.columns, strict=True):
            known = column + (read_at == "token")
            context = [*batch.prompts[batch.prompt_of[row]], *batch.ids[row, :known]]
            assert ids[visible[predictor]].tolist() == [int(token) for token in context]


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_unpacking_is_the_inverse_of_packing(case: tuple[Batch, ReadAt]) -> None:
    batch, read_at = case
    for plan in plans(batch, read_at):
        unpacked = np.zeros(batch.ids.size, np.int64)
        unpacked[plan.places] = plan.targets
        assert np.array_equal(unpacked.reshape(plan.shape), batch.ids)
        assert len(np.unique(plan.places)) == len(plan.places)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_positions_count_a_prompt_with_its_completion(case: tuple[Batch, ReadAt]) -> None:
    batch, read_at = case
    for plan in plans(batch, read_at):
        positions, visible = flat_positions(plan, text_positions(batch.prompts))[0], seen(plan)
        real = np.flatnonzero(visible.any(axis=1))
        assert positions[real].tolist() == (visible[real].sum(axis=1) - 1).tolist()
        assert plan.longest == visible.sum(axis=1).max(initial=0)
        assert not np.delete(flat_ids(batch, plan), real).any()


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_a_shared_plan_holds_each_prompt_once_and_no_padding(case: tuple[Batch, ReadAt]) -> None:
    batch, read_at = case
    plan = shared_plan(batch, read_at)
    assert plan.tokens == sum(len(prompt) for prompt in batch.prompts) + plan.computed.sum()
    assert seen(plan).any(axis=1).all()
    for prompt, rows in enumerate(plan.members()):
        assert rows.tolist() == np.flatnonzero(batch.prompt_of == prompt).tolist()
        ends = (plan.starts + plan.computed)[rows]
        assert plan.starts[rows][1:].tolist() == ends[:-1].tolist()


@settings(max_examples=100, deadline=None)
@given(case=cases(), data=st.data())
def test_every_copy_of_an_image_token_has_the_prompts_embedding(
    case: tuple[Batch, ReadAt], data: st.DataObject
) -> None:
    batch, read_at = case
    count = len(batch.prompts)
    has_images = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    named = [
        (prompt, place)
        for prompt, ids in enumerate(batch.prompts)
        for place in np.flatnonzero(ids == IMAGE)
        if has_images[prompt]
    ]
    for plan in plans(batch, read_at):
        images = image_places(batch.prompts, has_images, IMAGE, plan.prompts, plan.prompt_starts)
        assert images.embeddings == len(named)
        expected = {
            int(start + place): (prompt, place)
            for copied, start in zip(plan.prompts, plan.prompt_starts, strict=True)
            for prompt, place in named
            if prompt == copied
        }
        assert {
            int(place): named[source] for place, source in zip(images.places, images.sources, strict=True)
        } == expected


def test_positions_with_three_axes_go_on_after_the_largest() -> None:
    batch = Batch(
        prompts=(np.array([7, IMAGE, IMAGE, 8]),),
        prompt_of=np.array([0, 0]),
        ids=np.array([[1, 2, 3], [4, 5, 0]]),
        lengths=np.array([3, 2]),
        mask=np.ones((2, 3), np.float32),
        weights=np.ones((2, 3), np.float32),
        advantages=np.ones((2, 3), np.float32),
    )
    image = np.array([[0, 1, 1, 2], [0, 1, 1, 2], [0, 1, 2, 3]])
    positions = flat_positions(shared_plan(batch), [image])
    assert positions.tolist() == [[0, 1, 1, 2, 4, 5, 4], [0, 1, 1, 2, 4, 5, 4], [0, 1, 2, 3, 4, 5, 4]]
