"""Whole runs with matrices cut over ranks, in training and in the engine, are the runs of one process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support import tiny
from tests.support.runs import mindspore_layouts

pytest.importorskip("mindspore")

STEPS = 5
PPO = {
    "backend": "mindspore",
    "train": {"steps": STEPS, "prompts_per_step": 4, "learning_rate": 0.001},
    "algorithm": {"name": "ppo", "kl_coef": 0.02, "kl_in": "reward", "kl_estimator": "k1"},
    "critic": {"learning_rate": 0.001},
}  # with a critic and a reference


def layout(strategy: str, tensor: int, engine: int | None = None) -> dict[str, Any]:
    """The settings of a layout in training, and of one of the engine's own."""
    sections: dict[str, Any] = {"parallel": {"strategy": strategy, "tensor": tensor}}
    return sections if engine is None else {**sections, "rollout": {"parallel": {"tensor": engine}}}


LAYOUTS = {
    2: {
        "tensor 2": layout("replicate", 2),
        "tensor 2 to replicas 2": layout("replicate", 2, 1),
        "replicas 2 to tensor 2": layout("replicate", 1, 2),
    },
    4: {
        "tensor 2, zero1 over 2": layout("zero1", 2),
        "tensor 4 to tensor 2": layout("replicate", 4, 2),
    },
}


def written(folder: Path, name: str, sections: dict[str, Any]) -> Path:
    """The configuration of a run in a folder of its own, over the files that all share."""
    settings = tiny.settings(folder, **PPO)
    for section, values in sections.items():
        settings[section] = {**settings.get(section, {}), **values}
    path = folder / f"{name.replace(' ', '_')}.yaml"
    path.write_text(yaml.safe_dump({**settings, "run_dir": str(folder / name)}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("workers", LAYOUTS)
def test_runs_in_any_layout_are_the_run_of_one_process(tmp_path: Path, workers: int) -> None:
    tiny.prepare(tmp_path, layers=2, kv_heads=4)
    configs = [written(tmp_path, name, sections) for name, sections in LAYOUTS[workers].items()]
    tiny.train(written(tmp_path, "alone", {}))
    command = [*tiny.msrun(workers, tmp_path / "logs"), mindspore_layouts.__file__, *map(str, configs)]
    done = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in LAYOUTS[workers]:
        compare(tmp_path / "alone", tmp_path / name)


def compare(alone: Path, together: Path) -> None:
    """Assert that tokens are equal, and losses and weights within rounding."""
    for step in range(1, STEPS + 1):
        expected, found = tiny.rollouts(alone, step), tiny.rollouts(together, step)
        assert found.keys() == expected.keys()
        for key, row in expected.items():
            assert found[key]["ids"] == row["ids"], (together.name, step, key)
    for one, other in zip(tiny.metrics(alone), tiny.metrics(together), strict=True):
        for name in ("loss", "critic/loss", "grad_norm", "kl/mean", "entropy"):
            assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), (together.name, one["step"], name)
    expected_weights, found_weights = tiny.weights(alone, STEPS), tiny.weights(together, STEPS)
    assert found_weights.keys() == expected_weights.keys()
    for name, tensor in expected_weights.items():
        assert np.linalg.norm(found_weights[name] - tensor) <= 1e-5 * np.linalg.norm(tensor), (together.name, name)
