"""Each online algorithm learns a toy task end to end, and so does one from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.algorithms.registry import ALGORITHMS
from tests.support import tiny
from tests.support.repository import ROOT
from tests.support.runs.metrics_page import undocumented
from tests.support.runs.online_runs import PPO, TRAIN

pytestmark = pytest.mark.trains

REFERENCES = {"from a file": f"{ROOT / 'examples/own_algorithm/gpg.py'}:GPG"}
NAMES = [*ALGORITHMS, *REFERENCES]


QUICK = {"grpo", "ppo", "gspo", "from a file"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs."""
    return tmp_path_factory.mktemp("algorithms")


def trained(folder: Path, name: str, *overrides: str) -> Path:
    """The run of an algorithm."""
    needs_critic = name in ALGORITHMS and "critic" in ALGORITHMS[name].needs
    sections = PPO if needs_critic else {"algorithm": {"name": REFERENCES.get(name, name)}}
    config = tiny.prepare(folder, train={**TRAIN, "learning_rate": 0.01}, **sections)
    tiny.train(config, f"run_dir={folder / name}", *overrides)
    return folder / name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
@pytest.mark.row("mindrlhf", "GRPO")
@pytest.mark.row("mindrlhf", "PPO")
def test_reward_rises_by_a_third_of_the_way(folder: Path, name: str) -> None:
    metrics = tiny.metrics(trained(folder, name))
    first, last = (np.mean([line["reward/mean"] for line in part]) for part in (metrics[:2], metrics[-2:]))
    assert last - first >= 0.3, (first, last)  # 0.59 to 1.19 for all algorithms on six tiny models


def test_every_metric_of_two_steps_of_each_is_in_the_glossary(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        losses = [line["loss"] for line in tiny.metrics(trained(tmp_path, name, "train.steps=2"))]
        assert len(losses) == 2, name
        assert np.isfinite(losses).all(), name
    assert undocumented(tmp_path) == set()
