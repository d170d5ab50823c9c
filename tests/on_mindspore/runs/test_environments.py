"""A run with an environment on MindSpore: the tokens of torch, losses within 1e-4, and a resume without a bit's difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo.run.rollout_log import read_rollouts
from tests.support import tiny
from tests.support.environments import tiny_environment
from tests.support.runs.resumed import assert_same

pytest.importorskip("mindspore")
pytest.importorskip("torch")

STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environments")
    config = tiny_environment.prepare(folder, train={"steps": STEPS}, checkpoint={"every": 1, "keep_last": 0})
    for backend in ("mindspore", "torch"):
        tiny.train(config, f"backend={backend}", f"run_dir={folder / backend}")
    return folder


def test_both_backends_sample_the_same_turns(folder: Path) -> None:
    lines = [tiny.metrics(folder / backend) for backend in ("mindspore", "torch")]
    for step, (one, other) in enumerate(zip(*lines, strict=True), 1):
        assert one["ratio/max_dev"] < 1e-4
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["environment/turns"] == other["environment/turns"] > 1
        records = [read_rollouts(folder / name / "rollouts" / f"step_{step}.jsonl") for name in ("mindspore", "torch")]
        assert [record.ids for record in records[0]] == [record.ids for record in records[1]]
        assert [record.episode for record in records[0]] == [record.episode for record in records[1]]


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(folder: Path) -> None:
    config = folder / "config.yaml"
    for steps in (2, STEPS):
        tiny.train(config, "backend=mindspore", f"run_dir={folder / 'resumed'}", f"train.steps={steps}")
    assert_same(folder / "resumed", folder / "mindspore", STEPS)
