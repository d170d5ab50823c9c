"""RAIDEN-R1 on MindSpore: the reward rises, SBK and CM are reported by language, the first step is torch's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support import tiny
from tests.support.recipes.raiden_files import prepare
from tests.support.runs.commands import command

pytest.importorskip("mindspore")

pytestmark = pytest.mark.trains


@pytest.mark.slow  # the loop is test_online's; torch runs it all
@pytest.mark.row("raiden", "Trainers A/B")
def test_the_reward_rises_and_sbk_and_cm_are_reported_by_language(tmp_path: Path) -> None:
    config = prepare(tmp_path, num_epochs=20, eval_steps=20)
    done = command("recipe", "raiden", "train", config, "backend=mindspore")
    assert done.code == 0, done.err[-3000:]
    assert json.loads(done.out.splitlines()[-1])["model"] == str(tmp_path / "outputs" / "epoch_19")
    lines = tiny.metrics(tmp_path / "outputs")
    rewards = [line["reward/mean"] for line in lines]
    assert np.mean(rewards[-3:]) - np.mean(rewards[:3]) >= 0.3
    assert {f"{kind}/{name}" for kind in ("sbk", "cm") for name in ("zh", "ja", "en", "ko")} <= lines[-1].keys()
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(tmp_path / "outputs" / "epoch_19" / "model.safetensors")
    assert all(np.abs(before[name] - after[name]).max() > 1e-4 for name in before)
