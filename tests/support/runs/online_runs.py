"""Toy runs of any online algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import tiny

STEPS = 20
TRAIN = {"steps": STEPS, "prompts_per_step": 8, "learning_rate": 0.003}
PPO: dict[str, Any] = {
    "critic": {"learning_rate": 0.003},
    "algorithm": {"name": "ppo", "kl_coef": 0.02, "kl_in": "reward", "kl_estimator": "k1", "inner_epochs": 2},
}


def run(folder: Path, name: str, *overrides: str, processes: int = 1, **sections: Any) -> list[dict[str, float]]:
    """Metrics of a finished run."""
    config = tiny.prepare(folder, **{"train": TRAIN, **sections})
    tiny.train(config, f"run_dir={folder / name}", *overrides, processes=processes)
    return tiny.metrics(folder / name)
