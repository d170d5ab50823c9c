"""Learning rates by step, in numbers worked out by hand."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.config.run import TrainConfig
from mindrlhf_grpo.trainers.schedule import learning_rate, warmup_steps


def rates(count: int, **settings: object) -> list[float]:
    train = TrainConfig.model_validate({"learning_rate": 1.0, "steps": 4, **settings})
    return [learning_rate(train, step) for step in range(1, count + 1)]


def test_each_schedule_has_its_rates() -> None:
    assert rates(4) == [1.0, 1.0, 1.0, 1.0]
    assert rates(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(4, schedule="cosine") == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert rates(4, schedule="inverse_sqrt", warmup_steps=1) == pytest.approx([1.0, 1.0, 0.707107, 0.577350], abs=1e-6)
    assert rates(4, schedule={3: 0.25}) == [1.0, 1.0, 0.25, 0.25]


def test_a_decay_ends_at_the_smallest_rate_and_the_others_do_not_read_it() -> None:
    assert rates(4, schedule="linear", min_learning_rate=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates(4, schedule="cosine", min_learning_rate=0.2) == pytest.approx([1.0, 0.882843, 0.6, 0.317157], abs=1e-6)
    assert rates(2, min_learning_rate=0.2) == [1.0, 1.0]


def test_warm_up_is_given_in_steps_or_as_a_share_of_the_run() -> None:
    assert rates(3, warmup_steps=2) == [0.5, 1.0, 1.0]
    assert rates(3, warmup_steps=0.5) == [0.5, 1.0, 1.0]
    assert warmup_steps(TrainConfig(steps=101, warmup_steps=0.1)) == 11  # rounded up
    assert warmup_steps(TrainConfig(steps=101, warmup_steps=1)) == 1


@pytest.mark.parametrize(
    ("settings", "depends"),
    [
        ({}, False),
        ({"schedule": "inverse_sqrt", "warmup_steps": 5}, False),
        ({"schedule": {3: 0.1}}, False),
        ({"schedule": "linear"}, True),
        ({"schedule": "cosine"}, True),
        ({"warmup_steps": 0.1}, True),
    ],
)
def test_only_what_ends_with_the_run_depends_on_its_length(settings: dict[str, object], depends: bool) -> None:
    assert TrainConfig.model_validate(settings).bound_to_steps is depends
