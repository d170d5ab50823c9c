"""``examples/own_algorithm``: an algorithm from a file is checked, predicted, trained and resumed like a built-in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.capacity.dry_run import examine_config
from mindrlhf_grpo.config.algorithm import AlgorithmConfig
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.trainers.preflight import problems_of
from tests.support import tiny
from tests.support.loss_cases import ADVANTAGES, LOGPS, ONES
from tests.support.repository import ROOT

FILE = ROOT / "examples/own_algorithm/gpg.py"
GPG = f"{FILE}:GPG"


def test_advantages_and_loss_by_hand() -> None:
    plan = resolve(AlgorithmConfig(name=GPG))
    rewards, groups = np.array([1.0, 0.0, 0.0, 2.0, 2.0, np.nan]), np.array([0, 0, 0, 1, 1, 1])
    got = plan.advantages(rewards[:, None, None], np.ones(1), groups)
    # means 1/3 and 2; one group of two is alive: alpha = 2
    np.testing.assert_allclose(got.ravel(), [4 / 3, -2 / 3, -2 / 3, 0, 0, 0], atol=1e-15)
    loss, _ = plan.loss(NUMPY, LOGPS, {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES})
    # 2 (1 + .5 + 2 - ln 1.5 - ln 1.1 - ln .5) - (.25 + 3 + 1.5 - ln 1.5 - ln .5 - ln 4)
    assert loss == pytest.approx(2 * (3.5 - np.log(0.825)) - (4.75 - np.log(3.0)))
    assert plan.settings.aggregation == "token_mean"


def test_the_file_is_short() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 60


def test_it_is_checked_and_predicted_before_weights_are_loaded(tmp_path: Path) -> None:
    path = tiny.prepare(tmp_path, algorithm={"name": GPG})
    assert problems_of(load_config(path, [])) == []
    assert examine_config(path, [])["problems"] == []
    broken = tmp_path / "broken.py"
    broken.write_text("def advantages(rewards):\n    return rewards.sum()\n")
    [(key, text)] = problems_of(load_config(path, [f"algorithm.name={broken}:advantages"]))
    assert key == "algorithm.name"
    assert f"{broken}:1" in text
    assert "must return advantages [N, K] = [6, 1], not []" in text
    assert str(broken) in examine_config(path, [f"algorithm.name={broken}:advantages"])["problems"][0]


@pytest.mark.trains
def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    checkpoint = {"every": 2}
    whole = tiny.prepare(tmp_path, algorithm={"name": GPG}, checkpoint=checkpoint, train={"steps": 4})
    tiny.train(whole, f"run_dir={tmp_path / 'straight'}")
    tiny.train(whole, f"run_dir={tmp_path / 'parts'}", "train.steps=2")
    tiny.train(whole, f"run_dir={tmp_path / 'parts'}")
    straight, parts = (tiny.metrics(tmp_path / name) for name in ("straight", "parts"))
    assert [line["reward/mean"] for line in parts] == [line["reward/mean"] for line in straight]
