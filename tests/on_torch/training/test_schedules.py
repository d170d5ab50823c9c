"""Schedules have the rates of transformers' ``get_scheduler``."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mindrlhf_grpo.config.run import TrainConfig  # noqa: E402
from mindrlhf_grpo.trainers.schedule import learning_rate  # noqa: E402

STEPS, WARMUP, PEAK, LOWEST = 30, 6, 2e-4, 1e-5


def theirs(name: str, **settings: float) -> list[float]:
    """The rate of each optimizer step, from 0: transformers' first step has the rate of index 0."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = transformers.get_scheduler(
        name, optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS, scheduler_specific_kwargs=settings
    )
    rates = []
    for _ in range(STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "lowest", "name", "settings"),
    [
        ("constant", 0.0, "constant_with_warmup", {}),
        ("linear", 0.0, "linear", {}),
        ("cosine", 0.0, "cosine", {}),
        ("cosine", LOWEST, "cosine_with_min_lr", {"min_lr": LOWEST}),
        ("linear", LOWEST, "polynomial", {"lr_end": LOWEST, "power": 1.0}),
        ("inverse_sqrt", 0.0, "inverse_sqrt", {}),
    ],
)
def test_rates_equal_those_of_transformers(schedule: str, lowest: float, name: str, settings: dict[str, float]) -> None:
    train = TrainConfig.model_validate(
        {
            "steps": STEPS,
            "warmup_steps": WARMUP,
            "learning_rate": PEAK,
            "schedule": schedule,
            "min_learning_rate": lowest,
        }
    )
    ours = [learning_rate(train, step) for step in range(1, STEPS + 1)]
    expected = theirs(name, **settings)
    assert ours[:WARMUP] == pytest.approx(expected[1 : WARMUP + 1], rel=1e-9)  # no step at rate 0
    assert ours[WARMUP:] == pytest.approx(expected[WARMUP:STEPS], rel=1e-9)
