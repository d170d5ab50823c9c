"""One process, two processes and any micro-batch size are the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny

pytestmark = pytest.mark.trains

STEPS = 5
# Terms of order 1 cancel in the loss of a step on the policy that sampled: float32 leaves a few 1e-8 of them, on any
# processor; how near to 0 the sum comes is up to the model.
CANCELLED = 1e-7
OPTIONS = {
    "train": {"steps": STEPS, "prompts_per_step": 5, "learning_rate": 0.001},
    "algorithm": {"kl_coef": 0.05, "preset": "trl"},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    tiny.train(tiny.prepare(folder, **OPTIONS))
    return folder


@pytest.mark.parametrize(
    ("processes", "overrides"),
    [
        (2, ()),
        (1, ("train.tokens_per_micro_batch=1",)),  # one completion at a time
        (1, ("train.tokens_per_micro_batch=30",)),  # about three completions at a time
        (1, ("rollout.slots=3",)),
    ],
    ids=["two processes", "micro-batch of 1", "micro-batch of 3", "three slots"],
)
def test_same_tokens_rewards_losses_and_weights(
    alone: Path, tmp_path: Path, processes: int, overrides: tuple[str, ...]
) -> None:
    config = tiny.prepare(alone, **OPTIONS)
    run = tmp_path / "run"
    tiny.train(config, f"run_dir={run}", *overrides, processes=processes)
    for step in range(1, STEPS + 1):
        expected, got = tiny.rollouts(alone / "run", step), tiny.rollouts(run, step)
        assert expected.keys() == got.keys()
        for key, row in expected.items():
            assert got[key]["ids"] == row["ids"]
            assert got[key]["components"] == row["components"]
            assert got[key]["advantages"] == row["advantages"]
    for one, other in zip(tiny.metrics(alone / "run"), tiny.metrics(run), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6, abs=CANCELLED)
    expected_weights, got_weights = tiny.weights(alone / "run", STEPS), tiny.weights(run, STEPS)
    for name, tensor in expected_weights.items():
        assert np.linalg.norm(got_weights[name] - tensor) <= 1e-5 * np.linalg.norm(tensor), name
