"""Each online algorithm learns a toy task end to end, and so does one from a file."""

from __future__ import annotations

import subprocess
import sys
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
# One process for all: starting one costs as much as a run.
PROGRAM = """
import sys
from pathlib import Path
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.trainers import train
for path in sys.argv[1:]:
    train(load_config(Path(path), [f"run_dir={path.removesuffix('.yaml')}"]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of every algorithm."""
    folder = tmp_path_factory.mktemp("algorithms")
    paths = []
    for name in NAMES:
        needs_critic = name in ALGORITHMS and "critic" in ALGORITHMS[name].needs
        sections = PPO if needs_critic else {"algorithm": {"name": REFERENCES.get(name, name)}}
        paths.append(
            tiny.prepare(folder, train={**TRAIN, "learning_rate": 0.01}, **sections).rename(folder / f"{name}.yaml")
        )
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    done = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.row("mindrlhf", "GRPO")
@pytest.mark.row("mindrlhf", "PPO")
def test_reward_rises_by_a_third_of_the_way(folder: Path, name: str) -> None:
    metrics = tiny.metrics(folder / name)
    first, last = (np.mean([line["reward/mean"] for line in part]) for part in (metrics[:2], metrics[-2:]))
    assert last - first >= 0.3, (first, last)  # 0.59 to 1.19 for all algorithms on six tiny models


def test_every_metric_of_these_runs_is_in_the_glossary(folder: Path) -> None:
    assert undocumented(folder) == set()
