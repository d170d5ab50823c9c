"""A run whose parts take turns on the device is the run in which all of them stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.trainers.online import train
from tests.support import tiny
from tests.support.runs.resumed import assert_same

pytest.importorskip("torch")

pytestmark = pytest.mark.trains

STEPS = 3
OPTIONS: dict[str, Any] = {
    "train": {"steps": STEPS, "prompts_per_step": 4, "learning_rate": 0.001},
    "algorithm": {
        "name": "ppo", "kl_coef": 0.05, "kl_in": "reward", "kl_estimator": "k1", "inner_epochs": 2,
        "reference_sync": {"every": 2, "share": 0.5},
    },
    "critic": {"learning_rate": 0.003},
    "checkpoint": {"every": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with everything on the device, and with turns."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny.prepare(folder, **OPTIONS)
    for name, overrides in (("run", ()), ("swapped", ("swap={}",)), ("partly", ("swap.roles=[reference,kv_cache]",))):
        train(load_config(config, [f"run_dir={folder / name}", *overrides]))
    return folder


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
@pytest.mark.parametrize("name", ["swapped", "partly"])
def test_results_are_the_same_bit_for_bit(runs: Path, name: str) -> None:
    assert_same(runs / name, runs / "run", STEPS)
    for part in ("optimizer/optimizer.safetensors", "optimizer/reference.safetensors", "critic/model.safetensors"):
        expected, found = (runs / each / "checkpoints" / f"step_{STEPS}" / part for each in ("run", name))
        assert found.read_bytes() == expected.read_bytes(), part


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_every_phase_has_on_the_device_what_it_names_and_the_peak_is_below_the_sum(runs: Path) -> None:
    found = json.loads((runs / "swapped" / "summary.json").read_text())["residency"]
    assert found["phases"]["generate"] == ["engine", "kv_cache", "policy"]
    assert found["phases"]["logps"] == ["policy", "reference"]
    assert found["phases"]["values"] == ["critic"]
    assert found["phases"]["update"] == ["optimizer", "policy"]
    assert found["phases"]["update critic"] == ["critic", "critic_optimizer"]
    sizes = found["roles_mb"]
    assert sizes["optimizer"] == pytest.approx(2 * sizes["policy"], rel=1e-3)
    assert found["peak_mb"] < 0.5 * found["sum_mb"]
    assert max(line["memory/resident_peak_mb"] for line in tiny.metrics(runs / "swapped")) == found["peak_mb"]


def test_a_run_without_a_swap_section_says_nothing_of_it(runs: Path) -> None:
    assert "residency" not in json.loads((runs / "run" / "summary.json").read_text())
    assert "memory/resident_peak_mb" not in tiny.metrics(runs / "run")[0]
