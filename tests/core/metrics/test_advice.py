"""What a run that did not learn is told at its end."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.metrics.advice import advice
from mindrlhf_grpo.metrics.history import History


def history(steps: int = 40, **figures: float) -> History:
    """A run whose reward stands at 0.3, give or take, with other metrics constant."""
    made = History({})
    for step in range(1, steps + 1):
        named = {name.replace("__", "/"): value for name, value in figures.items()}
        made.add(step, {"reward/mean": 0.3 + 0.01 * (-1) ** step, **named})
    return made


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"dead_group_frac": 0.95}, "95% of the groups have equal rewards"),
        ({"truncated_frac": 0.75}, "75% of the completions are cut at rollout.max_tokens"),
        ({"entropy": 0.01}, "entropy is 0.010 nats a token"),
        ({"clip_frac__high": 0.4}, "40% of the tokens are above the clip range"),
        ({"reward__unscored_frac": 0.9}, "90% of the completions have no reward"),
        ({"kl__mean": 1e-7}, "KL to the reference is 1.0e-07 nats a token"),
    ],
)
def test_each_reason_is_named(figures: dict[str, float], said: str) -> None:
    opening, reason = advice(history(**figures))
    assert opening == "the training reward did not rise (0.300 in the first 10 steps, 0.300 in the last 10)"
    assert reason.startswith(said)


def test_healthy_figures_are_no_reason() -> None:
    healthy = history(dead_group_frac=0.4, truncated_frac=0.1, entropy=0.8, kl__mean=0.01, clip_frac__high=0.01)
    assert len(advice(healthy)) == 1  # it did not learn, and these figures do not say why


def test_a_run_that_learned_or_is_short_gets_no_advice() -> None:
    learned = History({})
    for step in range(1, 41):
        learned.add(step, {"reward/mean": 0.01 * step, "dead_group_frac": 0.99})
    assert advice(learned) == []
    assert advice(history(steps=19, dead_group_frac=1.0)) == []
    solved = history(dead_group_frac=1.0)
    solved.full_marks = 0.3
    assert advice(solved) == []


def test_what_an_alarm_has_said_is_not_said_again() -> None:
    assert len(advice(history(dead_group_frac=1.0), {"groups_dead"})) == 1
