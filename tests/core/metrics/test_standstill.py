"""Runs that learn nothing: what stops them, after how long, and what does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from mindrlhf_grpo.metrics.alarms import Alarms

Step = dict[str, float]


def healthy(**other: float) -> Step:
    return {
        "reward/mean": 0.5, "reward/std": 0.5, "reward/unscored_frac": 0.0, "dead_group_frac": 0.25, "prompts": 16.0,
        "truncated_frac": 0.0, "tokens/trained": 100.0, "updates": 1.0, "grad_norm": 1.0, "lr": 1e-6,
        "weights/changed_frac": 0.9, **other,
    }  # fmt: skip


def stops(steps: Iterable[Step], reasons: Mapping[str, str] | None = None, **weights: float) -> tuple[int, str]:
    """Number of the step at which the run stops, and why; 0 if it does not."""
    alarms = Alarms(weights or {"score": 1.0})
    for number, metrics in enumerate(steps, 1):
        found = alarms.observe(number, metrics, reasons)
        if found.stop:
            return number, found.stop
    return 0, ""


def sounds(steps: Iterable[Step], **weights: float) -> dict[str, list[int]]:
    """Alarm -> the steps at which it sounds."""
    alarms, found = Alarms(weights or {"score": 1.0}), dict[str, list[int]]()
    for number, metrics in enumerate(steps, 1):
        for name, value in alarms.observe(number, metrics).states.items():
            if value:
                found.setdefault(name.removeprefix("alarm/"), []).append(number)
    return found


FAILS = {"reward/failed_frac": 1.0, "reward/failures/score": 64.0}


def test_a_reward_that_fails_for_every_sample_of_the_first_step_stops_the_run_and_gives_the_reason() -> None:
    """Newcomer P1: such a run went on to the end, with exit code 0."""
    at, why = stops([healthy(**FAILS)] * 9, {"score": "TypeError: string indices must be integers (r.py:12)"})
    assert at == 1
    assert why == (
        "reward score failed for every completion of this step: TypeError: string indices must be integers (r.py:12) "
        "(alarm rewards_fail, docs/alarms.md; train.on_alarm=warn goes on)"
    )


def test_later_it_takes_three_steps_in_a_row() -> None:
    steps = [healthy(), healthy(**FAILS), healthy(**FAILS), healthy(), *[healthy(**FAILS)] * 3]
    assert stops(steps)[0] == 7
    assert stops([healthy(**{"reward/failed_frac": 0.99})] * 50) == (0, "")


def test_completions_without_any_value_stop_the_run() -> None:
    """Finding F12: a reward model whose scores were NaN had every step skipped, with exit code 0."""
    unscored = healthy(**{"reward/unscored_frac": 1.0})
    at, why = stops([unscored] * 9)
    assert (at, why.startswith("every completion of 4 steps in a row has no reward")) == (4, True)  # 64 groups
    assert stops([{**unscored, "prompts": 1.0}] * 20) == (0, ""), "rows to which no reward applies"


def test_a_first_step_of_one_prompt_is_no_proof() -> None:
    one = healthy(**FAILS, prompts=1.0)
    assert stops([one, healthy(prompts=1.0)] * 20) == (0, "")
    assert stops([one] * 9)[0] == 3


def test_groups_that_are_dead_from_the_start_stop_the_run_when_it_is_no_chance() -> None:
    dead = healthy(**{"dead_group_frac": 1.0, "reward/mean": 0.0, "reward/std": 0.0})
    assert stops([dead] * 100)[0] == 20  # 320 groups
    assert stops([{**dead, "prompts": 8.0}] * 100)[0] == 32  # 256 groups
    assert "no progress" not in stops([dead] * 100)[1]
    assert "equal rewards for 20 steps (320 prompts), 0 on average" in stops([dead] * 100)[1]


def test_groups_that_seldom_differ_are_given_time() -> None:
    """With 1 group in 100 alive, 320 dead ones in a row are no surprise; 688 are: (1 - 0.01) ** 688 < 0.001."""
    rare = [healthy(**{"dead_group_frac": 0.99, "reward/mean": 0.001, "prompts": 100.0})] * 10
    dead = [healthy(**{"dead_group_frac": 1.0, "reward/mean": 0.0, "prompts": 16.0})] * 100
    assert stops([*rare, *dead])[0] == 10 + 40  # 40 * 16 = 640 at a rate of 11 / 1002


def test_a_solved_data_set_is_not_stopped() -> None:
    learning = [healthy(**{"reward/mean": 0.1 * step}) for step in range(1, 10)]
    solved = [healthy(**{"dead_group_frac": 1.0, "reward/mean": 0.97})] * 100
    assert stops([*learning, *solved]) == (0, "")
    assert sounds([*learning, *solved])["nothing_left"][0] == 9 + 20
    perfect = [healthy(**{"dead_group_frac": 1.0, "reward/mean": 1.5})] * 100  # from the first step, all parts at 1
    assert stops(perfect, score=1.0, format=0.5, judge=0.0) == (0, "")


def test_a_policy_that_collapsed_is_stopped() -> None:
    learning = [healthy(**{"reward/mean": 0.5})] * 9
    assert stops([*learning, *[healthy(**{"dead_group_frac": 1.0, "reward/mean": 0.0})] * 100])[0] == 9 + 20


def test_of_resampled_steps_all_that_was_drawn_counts() -> None:
    """Steps of which dynamic sampling kept nothing have no rewards; those of the replaced prompts tell what happened."""
    empty = {"dead_group_frac": 1.0, "prompts": 0.0, "prompts/drawn": 64.0, "reward/drawn_mean": 1.0}
    assert stops([empty] * 50) == (0, "")
    assert stops([{**empty, "reward/drawn_mean": 0.0}] * 50)[0] == 20


def test_completions_that_are_all_masked_for_their_length_stop_the_run() -> None:
    masked = healthy(**{"tokens/trained": 0.0, "updates": 0.0, "truncated_frac": 1.0})
    at, why = stops([masked] * 50)
    assert at == 10
    assert why.startswith("no completion was trained in 10 steps (100% of the last were cut at rollout.max_tokens)")
    assert stops([{**masked, "critic/loss": 0.5}] * 50) == (0, ""), "a critic's warm-up"


def test_an_offline_step_without_a_trained_token_stops_the_run() -> None:
    idle = {"rows": 8.0, "tokens/trained": 0.0, "tokens/read": 90.0, "grad_norm": 0.0, "lr": 1e-6, "loss": 0.0}
    assert stops([idle])[0] == 1
    assert stops([{**idle, "tokens/trained": 9.0}, idle, idle, idle])[0] == 4


def test_updates_that_change_no_weight_stop_the_run_unless_there_is_no_gradient() -> None:
    same = healthy(**{"weights/changed_frac": 0.0, "lr": 1e-12})
    at, why = stops([same] * 9)
    assert at == 5
    assert "the learning rate 1e-12 is lost in rounding" in why
    assert stops([{**same, "grad_norm": 0.0}] * 9) == (0, "")
    assert stops([{**same, "lr": 0.0}] * 9) == (0, "")


def test_the_end_of_a_run_tells_failures_and_what_was_always_the_same() -> None:
    """Newcomer P1 and P3.14: summary.json said nothing of failures, of equal rewards, of labels of one kind."""
    alarms = Alarms({"score": 1.0})
    alarms.observe(1, {"reward/mean": 0.5, "reward/std": 0.0, "reward/failures/score": 2.0}, {"score": "ValueError: a"})
    alarms.observe(2, {"reward/mean": 0.5, "reward/std": 0.0})
    alarms.observe(3, {"reward/mean": 0.5, "reward/std": 0.0, "reward/failures/score": 3.0}, {"score": "ValueError: b"})
    assert alarms.summary() == [
        "reward score failed for 5 samples in 2 steps; the first: ValueError: a",
        "every completion of the run had the reward 0.5: there was nothing to learn",
    ]
    labelled = Alarms({})
    labelled.observe(1, {"desirable": 1.0, "undesirable": 0.0})
    assert labelled.summary() == ["every row of the run was desirable: an objective for labelled rows needs both kinds"]
    assert Alarms({}).summary() == []


def test_a_replayed_run_sounds_the_same() -> None:
    steps = [healthy(), *[healthy(**FAILS)] * 3]
    alarms = Alarms({"score": 1.0})
    alarms.resume(list(enumerate(steps[:3], 1)))
    assert alarms.observe(4, steps[3]).stop.startswith("a reward component failed for every completion of 3 steps")


@pytest.mark.parametrize("steps", [[healthy()] * 300, [healthy(dead_group_frac=0.99)] * 300])
def test_a_run_that_learns_is_left_alone(steps: list[Step]) -> None:
    assert stops(steps) == (0, "")
