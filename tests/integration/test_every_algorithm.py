"""Each online algorithm learns a toy task end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from online_runs import PPO, run

from mindrlhf_grpo.algorithms import ALGORITHMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("algorithms")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_reward_rises_by_a_third_of_the_way(folder: Path, name: str) -> None:
    metrics = run(folder, name, **(PPO if name == "ppo" else {"algorithm": {"name": name}}))
    first, last = (np.mean([line["reward/mean"] for line in part]) for part in (metrics[:2], metrics[-2:]))
    assert last - first >= 0.3, (first, last)
