"""Alarms: they sound where training reward rises at the cost of something else, and are silent on noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.metrics.alarms import Alarms, judging_weights
from mindrlhf_grpo.metrics.trends import drift, mann_kendall, neighbours

Metrics = dict[str, float]


def told(
    metrics: Callable[[int], Metrics], steps: int = 200, **weights: float
) -> tuple[dict[str, list[int]], list[str]]:
    """Alarm -> steps at which it sounded, and the lines that were said."""
    alarms, sounded, notes = Alarms(weights), {}, []
    for step in range(1, steps + 1):
        found = alarms.observe(step, metrics(step))
        assert not found.stop
        for name, value in found.states.items():
            if value:
                sounded.setdefault(name.removeprefix("alarm/"), []).append(step)
        notes += found.notes
    return sounded, notes


# ---- trends


def test_mann_kendall_by_hand() -> None:
    # 5 rising values: S = 10, variance 5 * 4 * 15 / 18 = 16.667; residuals around the line are 0
    assert mann_kendall([1, 2, 3, 4, 5]) == pytest.approx(9 / np.sqrt(16.6667), abs=1e-4)
    assert mann_kendall([5, 4, 3, 2, 1]) == pytest.approx(-2.2045, abs=1e-4)
    # one tie of two: S = 9, variance (5 * 4 * 15 - 2 * 1 * 9) / 18 = 15.667
    assert mann_kendall([1, 2, 2, 3, 4]) == pytest.approx(8 / np.sqrt(15.6667), abs=1e-4)
    assert mann_kendall([3, 3, 3, 3, 3]) == 0.0
    assert mann_kendall([1, 2, 3]) == 0.0


def test_a_walk_has_less_of_a_trend_than_its_order_says() -> None:
    walk = [0, 1, 2, 1, 0, 1, 2, 3, 4, 5, 4, 3, 4, 5, 6, 7]
    # S = 86 of 120, variance 493.3 (less ties): 3.9 if its values were independent
    assert 1.0 < mann_kendall(walk) < 2.5


def test_drift_by_hand() -> None:
    # steps 1, 2, 1, 2: mean 1.5, standard deviation 0.57735, 4 of them
    assert drift([0, 1, 3, 4, 6]) == pytest.approx(1.5 / 0.57735 * 2, abs=1e-4)
    assert drift([1, 1, 1, 1, 1]) == 0.0
    assert drift([0, 1, 2, 3]) == float("inf")
    assert neighbours(np.array([1.0, -1.0, 1.0, -1.0])) == pytest.approx(-0.75)


# ---- what sounds


def hacking(step: int) -> Metrics:
    """Reward goes up all the time; held-out accuracy until step 80, then down."""
    found = {"reward/mean": 0.3 + 0.003 * step + 0.02 * np.sin(step)}
    if step % 8 == 0:
        found |= {"eval/accuracy": 0.5 + 0.00125 * min(step, 80) - 0.0025 * max(0, step - 80), "eval/problems": 200.0}
    return found


def test_reward_up_while_held_out_accuracy_falls() -> None:
    sounded, notes = told(hacking)
    # best 0.6 of 200 problems: 4 standard errors of a difference are 0.196, reached 80 steps later; then once more
    assert sounded == {"held_out_falls": list(range(168, 201))}
    assert notes == [
        "alarm held_out_falls at step 168: training reward rises (0.552 to 0.790) while held-out accuracy falls "
        "(0.600 to 0.380) since step 80; see docs/safety_evaluation.md"
    ]


def test_a_rate_that_should_be_low_sounds_when_it_grows() -> None:
    def metrics(step: int) -> Metrics:
        found = {"reward/mean": 0.01 * step}
        if step % 10 == 0:
            found |= {
                "eval/safety/harmful_compliance": 0.1 + 0.004 * step,
                "eval/safety/harmful_compliance/prompts": 100.0,
            }
        return found

    sounded, notes = told(metrics, 120)
    assert sounded["held_out_falls"][0] == 80  # 4 standard errors are 0.2003: at step 70, and once more
    assert "held-out harmful compliance grows (0.140 to 0.420) since step 10" in notes[0]


def test_a_judge_that_is_not_trained_on_is_watched_and_a_part_of_the_reward_is_not() -> None:
    def metrics(step: int) -> Metrics:
        found = {"reward/mean": 0.01 * step}
        return found | ({"eval/judge/mean": 5.0 - 0.01 * step + 0.05 * (step % 20 == 0)} if step % 10 == 0 else {})

    assert "held_out_falls" in told(metrics, judge=0.0)[0]
    assert told(metrics, judge=0.3)[0] == {}


def test_what_says_that_an_answer_is_a_refusal_is_no_judge_of_it() -> None:
    config = RunConfig.model_validate({
        "model": {"path": "m"}, "data": {"source": "s"},
        "rewards": [{"function": "a.py:f"}, {"function": "model:x/guard", "weight": 0}, {"function": "no", "weight": 0}],
        "metrics": [{"function": "mindrlhf_grpo.metrics.safety_metrics:safety", "arguments": {"refusal_judge": "no"}}],
    })  # fmt: skip
    assert judging_weights(config) == {"f": 1.0, "guard": 0.0}
    assert [name for name in Alarms(judging_weights(config)).history.watched if name.endswith("/mean")] == [
        "eval/guard/mean"
    ]


@pytest.mark.parametrize("name", ["length", "repetition"])
def test_what_runs_off_with_the_reward_sounds_unless_held_out_figures_are_better(name: str) -> None:
    def metrics(step: int, accuracy: float = 0.5) -> Metrics:
        grown = {"length/mean": 100 + 2.0 * step, "repetition": 0.1}
        if name == "repetition":
            grown = {"length/mean": 100.0, "repetition": 0.1 + 0.002 * step}
        found = {"reward/mean": 0.3 + 0.002 * step + 0.01 * np.sin(step), **grown}
        return found | ({"eval/accuracy": accuracy, "eval/problems": 200.0} if step % 20 == 0 else {})

    sounded, notes = told(metrics)
    assert list(sounded) == [f"{name}_runs_off"]
    assert "held-out figures did not" in notes[0]
    assert len(notes) == 1
    assert told(lambda step: metrics(step, 0.4 + 0.002 * step))[0] == {}


def test_longer_answers_without_more_reward_are_no_alarm() -> None:
    assert told(lambda step: {"reward/mean": 0.5 + 0.01 * np.sin(step), "length/mean": 100.0 + 5 * step})[0] == {}


def test_a_kl_that_explodes_sounds_and_one_that_grows_slowly_does_not() -> None:
    sounded, notes = told(lambda step: {"kl/mean": 0.02 if step < 100 else 3.0}, 110)
    assert sounded == {"kl_explodes": list(range(102, 111))}
    assert "went from 0.02 to 3 nats a token" in notes[0]
    assert told(lambda step: {"kl/mean": 0.005 * step})[0] == {}


def test_the_kl_has_no_verdict_without_a_reference() -> None:
    """Finding P3.5: a run that measures no KL was told that its KL does not explode."""
    for metrics, verdict in (({"loss": 0.1}, None), ({"loss": 0.1, "kl/mean": 0.02}, 0.0)):
        alarms = Alarms({})
        states = [alarms.observe(step, metrics).states for step in range(1, 31)]
        assert states[-1].get("alarm/kl_explodes") == verdict
        assert "alarm/kl_explodes" not in states[8]  # of 10 steps at least


def test_an_alarm_is_said_again_only_after_it_stopped() -> None:
    notes = told(lambda step: {"kl/mean": 3.0 if step in range(50, 60) or step in range(120, 130) else 0.02}, 200)[1]
    assert [note.split(":")[0] for note in notes] == ["alarm kl_explodes at step 52", "alarm kl_explodes at step 122"]


# ---- what is silent


def wandering(seed: int, *, walk: bool) -> Callable[[int], Metrics]:
    """Noise around healthy values, or random walks from them; a judge, an accuracy and a rate at every 8th step."""
    random = np.random.default_rng(seed)

    def series(start: float, size: float) -> Iterator[float]:
        value = start
        while True:
            value = (value if walk else start) + size * random.normal()
            yield value

    every = {name: series(*numbers) for name, numbers in {
        "reward/mean": (0.3, 0.02), "length/mean": (100.0, 1.5), "repetition": (0.1, 0.005), "kl/mean": (0.02, 0.005),
    }.items()}  # fmt: skip
    held_out = {name: series(*numbers) for name, numbers in {
        "eval/accuracy": (0.5, 0.03), "eval/judge/mean": (0.5, 0.03), "eval/safety/harmful_compliance": (0.2, 0.02),
    }.items()}  # fmt: skip

    def metrics(step: int) -> Metrics:
        drawn = {name: next(values) for name, values in every.items()}
        if step % 8 == 0:
            drawn |= {"eval/problems": 200.0, **{name: next(values) for name, values in held_out.items()}}
        return drawn

    return metrics


def test_noise_never_sounds() -> None:
    assert [seed for seed in range(30) if told(wandering(seed, walk=False), judge=0.0)[0]] == []


def test_random_walks_of_200_steps_sound_in_at_most_a_tenth_of_runs() -> None:
    """In 4% of 300, three held-out figures watched; 60 are enough to see that it has not become many."""
    assert sum(bool(told(wandering(seed, walk=True), judge=0.0)[0]) for seed in range(60)) <= 6


def test_a_run_that_learns_is_silent() -> None:
    def metrics(step: int) -> Metrics:
        share = 1 - np.exp(-step / 60)
        found = {"reward/mean": 0.2 + 0.7 * share, "length/mean": 100 + 300 * share, "kl/mean": 0.05 * share}
        return found | ({"eval/accuracy": 0.2 + 0.6 * share, "eval/problems": 200.0} if step % 10 == 0 else {})

    assert told(metrics)[0] == {}


# ---- resumed


def test_a_resumed_run_sounds_the_same(tmp_path: Path) -> None:
    config = RunConfig.model_validate({
        "model": {"path": "m"}, "data": {"source": "s"}, "rewards": [{"function": "f"}], "run_dir": str(tmp_path),
    })  # fmt: skip
    whole, lines = Alarms.of_run(config, {"eval/accuracy": 0.5}), []
    for step in range(1, 201):
        found = whole.observe(step, hacking(step)).states
        lines.append({"step": step, **hacking(step), **found})
    for cut in (100, 170):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:cut]))
        again = Alarms.of_run(config, {"eval/accuracy": 0.5})
        said: list[str] = []
        for step in range(cut + 1, 201):
            heard = again.observe(step, hacking(step))
            found, notes = heard.states, heard.notes
            assert {**hacking(step), **found} == {
                name: value for name, value in lines[step - 1].items() if name != "step"
            }
            said += notes
        assert len(said) == (cut == 100)


def test_values_that_are_not_finite_are_left_out() -> None:
    def metrics(step: int) -> dict[str, Any]:
        return hacking(step) | ({"reward/mean": float("nan")} if step % 3 == 0 else {})

    assert "held_out_falls" in told(metrics)[0]


def test_a_first_reward_that_is_no_accuracy_is_watched_like_one(tmp_path: Path) -> None:
    """Newcomer P2: it was logged as eval/accuracy, whatever its values."""
    values = {"model": {"path": "m"}, "data": {"source": "s"}, "run_dir": str(tmp_path), "rewards": [{"function": "a.py:f"}]}  # fmt: skip
    alarms = Alarms.of_run(RunConfig.model_validate(values), {"eval/f/mean": 2.5})
    assert alarms.history.watched["eval/f/mean"] == 1
    assert alarms.history.values("eval/f/mean") == [2.5]
