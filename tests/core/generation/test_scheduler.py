"""The scheduler: every sample once, never more than the slots, every prompt computed once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.generation.scheduler import Admission, Move, Scheduler, Start


def start(slot: int, prompt: int, sample: int) -> Start:
    return Start(slot=slot, prompt=prompt, sample=sample)


def drive(scheduler: Scheduler, seed: int) -> list[Start]:
    """Run to the end with completions that finish in a random order; check every invariant on the way."""
    draw = random.Random(seed)
    held: dict[int, tuple[int, int]] = {}
    kept: set[int] = set()
    computed: list[int] = []
    begun: list[Start] = []
    while not scheduler.done:
        admission = scheduler.admit()
        computed += admission.prefill
        kept |= set(admission.prefill)
        for item in admission.starts:
            assert item.prompt in kept, "a sample started without its prompt"
            assert item.slot not in held
            held[item.slot] = (item.prompt, item.sample)
            begun.append(item)
        kept -= set(admission.release)
        assert kept == set(scheduler.stored)
        assert all(slot < scheduler.slots for slot in held)
        for move in scheduler.compact():
            assert move.target not in held
            held[move.target] = held.pop(move.source)
        assert sorted(held) == list(range(len(held)))
        assert {slot: (item.prompt, item.sample) for slot, item in scheduler.running.items()} == held
        for slot in draw.sample(sorted(held), draw.randint(0, len(held))):
            scheduler.finish(slot)
            del held[slot]
    assert not kept
    assert computed == list(range(len(scheduler.prompt_tokens))), "a prompt was computed twice, never or out of order"
    return begun


@given(
    lengths=st.lists(st.integers(1, 50), max_size=9),
    group_size=st.integers(1, 5),
    slots=st.integers(1, 8),
    ahead=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_every_sample_runs_once_and_in_the_same_order_whatever_the_slots(
    lengths: list[int], group_size: int, slots: int, ahead: int, seed: int
) -> None:
    scheduler = Scheduler(lengths, group_size=group_size, slots=slots, prefill_tokens=ahead)
    begun = drive(scheduler, seed)
    expected = [(prompt, sample) for prompt in range(len(lengths)) for sample in range(group_size)]
    assert [(item.prompt, item.sample) for item in begun] == expected


def test_first_admission_fills_the_slots_and_keeps_the_prompt_with_samples_left() -> None:
    scheduler = Scheduler([10, 20, 30], group_size=2, slots=3)
    assert scheduler.admit() == Admission(
        prefill=(0, 1), starts=(start(0, 0, 0), start(1, 0, 1), start(2, 1, 0)), release=(0,)
    )
    assert scheduler.admit() == Admission()


def test_a_finished_slot_takes_the_next_sample_at_once() -> None:
    scheduler = Scheduler([10, 20, 30], group_size=2, slots=3)
    scheduler.admit()
    scheduler.finish(1)
    assert scheduler.admit() == Admission(starts=(start(1, 1, 1),), release=(1,))
    scheduler.finish(0)
    assert scheduler.admit() == Admission(prefill=(2,), starts=(start(0, 2, 0),))


def test_prompts_are_computed_ahead_within_the_token_budget() -> None:
    scheduler = Scheduler([10, 10, 10, 10], group_size=4, slots=4, prefill_tokens=30)
    assert scheduler.admit().prefill == (0, 1, 2)
    for slot in range(4):
        scheduler.finish(slot)
    assert scheduler.admit().prefill == ()


def test_gaps_close_when_nothing_is_left_to_start() -> None:
    scheduler = Scheduler([5], group_size=4, slots=4)
    scheduler.admit()
    scheduler.finish(0)
    scheduler.finish(2)
    assert scheduler.compact() == (Move(source=3, target=0),)
    assert {slot: item.sample for slot, item in scheduler.running.items()} == {0: 3, 1: 1}


def test_no_prompts_is_done_at_once() -> None:
    assert Scheduler([], group_size=8, slots=4).done


def test_finishing_an_idle_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="slot 3 is not running"):
        Scheduler([5], group_size=1, slots=4).finish(3)


@pytest.mark.parametrize(("group_size", "slots"), [(0, 1), (1, 0)])
def test_sizes_below_one_are_refused(group_size: int, slots: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler([5], group_size=group_size, slots=slots)
