"""Safe-Rank-GRPO on MindSpore: violations disappear and recall stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support import tiny
from tests.support.recipes import movie_world

pytest.importorskip("mindspore")
pytest.importorskip("torch")

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The films, the rows and the model that both modes start from."""
    folder = tmp_path_factory.mktemp("films")
    movie_world.write_world(folder)
    movie_world.write_model(folder / "model")
    return folder


@pytest.mark.row("safe_rank", "End-to-end")
@pytest.mark.slow  # the loop is test_online's; torch runs it all
@pytest.mark.parametrize("mode", ["grpo", "gdpo"])
def test_violations_go_and_recall_stays(world: Path, tmp_path: Path, mode: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(movie_world.settings(world, tmp_path / "run", mode, backend="mindspore", rollout={"slots": 48}))
    )
    tiny.train(config)
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["held_out"]
    before, after = found["before"], found["after"]
    assert before["eval/sensitive_ratio@3"] > 0.30
    assert after["eval/sensitive_ratio@3"] < 0.05
    assert after["eval/recall@3"] >= 0.9 * before["eval/recall@3"] > 0
    rates = [line["safety/violation_rate"] for line in tiny.metrics(tmp_path / "run")]
    assert rates[0] > 0.30
    assert np.mean(rates[-3:]) < 0.05
