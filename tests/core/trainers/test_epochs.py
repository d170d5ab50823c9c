"""A run's length in epochs: steps, refusals, and what is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.file import dump, read_config
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.run.folder import differences, saved_config
from mindrlhf_grpo.trainers.epochs import in_steps

BASE: dict[str, Any] = {"model": {"path": "m"}, "data": {"source": "s"}, "rewards": [{"function": "length"}]}


def config(**train: Any) -> RunConfig:
    return RunConfig.model_validate({**BASE, "train": train})


@pytest.mark.parametrize(
    ("epochs", "rows", "prompts", "steps"),
    [(2, 60, 8, 15), (1, 60, 8, 8), (0.1, 600, 6, 10), (0.001, 60, 8, 1), (3, 5, 8, 2)],
)
def test_epochs_are_as_many_steps_as_draw_each_row_so_often(epochs: float, rows: int, prompts: int, steps: int) -> None:
    """Newcomer P2: steps had to be worked out by hand."""
    assert in_steps(config(epochs=epochs, prompts_per_step=prompts), rows).train.steps == steps


def test_without_epochs_the_steps_stay() -> None:
    assert in_steps(config(steps=7), 1000).train.steps == 7


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_steps_and_epochs_exclude_each_other(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    what = "rewards: [{function: length}]" if kind == "online" else "objective: {name: sft}"
    path.write_text(f"model: {{path: m}}\ndata: {{source: s}}\n{what}\ntrain: {{steps: 10, epochs: 2}}\n")
    with pytest.raises(ConfigError, match=r"train.steps \(10\) and train.epochs \(2\) are both given"):
        read_config(path, [])
    assert read_config(path, ["train.epochs=null"])[0].train.steps == 10


def test_the_written_configuration_has_epochs_and_not_their_steps(tmp_path: Path) -> None:
    """A run resumed from its own config.yaml, or with more epochs, is the same run."""
    path = tmp_path / "config.yaml"
    path.write_text(dump(in_steps(config(epochs=2), 60)))
    saved = saved_config(path, RunConfig)
    assert isinstance(saved, RunConfig)
    assert saved.train.epochs == 2
    assert differences(saved, in_steps(config(epochs=3), 60)) == []


def test_fixed_datasets_have_epochs_too() -> None:
    offline = {"model": {"path": "m"}, "data": {"source": "s"}, "objective": {"name": "sft"}}
    made = OfflineConfig.model_validate({**offline, "train": {"epochs": 1.5, "prompts_per_step": 10}})
    assert in_steps(made, 100).train.steps == 15
