"""Our sides of the benchmarks run, on a tiny model: a change of a trainer would break them unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.benchmarks import benchmark

addition, grpo_step, pair_rows, preference_step = map(
    benchmark, ("addition", "grpo_step", "pair_rows", "preference_step")
)

TWO_STEPS = ["--steps", "2", "--threads", "1"]


def test_a_step_of_grpo(tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model")
    sizes = ["--batch", "4", "--generations", "2", "--completion-length", "5", *TWO_STEPS]
    arguments = addition.flags("").parse_args(["--model", str(model), *sizes])
    arguments.backend = "torch"
    figures = grpo_step.measure(arguments, tmp_path)
    assert figures.length == [5, 5]
    for step, generate, update in zip(figures.step, figures.generate, figures.update, strict=True):
        assert 0 < generate + update < step
    assert not list((tmp_path / "run").rglob("*.safetensors"))  # no time goes into writing weights


@pytest.mark.parametrize(("objective", "apart"), [("dpo", 1e-4), ("reward_model", 0.05)])
def test_a_step_on_pairs(tmp_path: Path, objective: str, apart: float) -> None:
    model = tiny.write_model(tmp_path / "model")
    sizes = ["--prompt-words", "3", "--completion-words", "4", "--pairs", "2", *TWO_STEPS]
    arguments = pair_rows.flags("").parse_args(["--model", str(model), "--objective", objective, *sizes])
    arguments.backend = "torch"
    figures = preference_step.measure(arguments, tmp_path)
    assert figures.loss[0] == pytest.approx(0.6931, abs=apart)
    assert len(figures.step) == 2
    assert not list((tmp_path / "run").rglob("*.safetensors"))  # no time goes into writing weights
