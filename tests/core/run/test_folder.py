"""The run folder: what a run of an earlier version left is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo import __version__
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.run.folder import RunFolder
from tests.support.tiny_run import write_run


def earlier_run(folder: Path) -> tuple[RunFolder, Path]:
    """A run folder with one checkpoint, its config.yaml written by version 0.1.0."""
    config = write_run(folder)
    settings = load_config(config, [])
    run = RunFolder(settings.run_dir)
    run.open(settings, {"torch": "2.13.0"})
    saved = run.path / "config.yaml"
    saved.write_text(saved.read_text().replace(f"# mindrlhf-grpo {__version__}\n", "# mindrlhf-grpo 0.1.0\n"))
    assert saved.read_text().startswith("# mindrlhf-grpo 0.1.0\n")
    run.checkpoint(1).mkdir(parents=True)
    return run, config


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    run, config = earlier_run(tmp_path)
    run.open(load_config(config, ["train.steps=9"]), {"torch": "2.14.0"})
    first, second, *_ = (run.path / "config.yaml").read_text().splitlines()
    assert (first, second) == (f"# mindrlhf-grpo {__version__}", "# torch 2.14.0")


def test_a_run_of_other_settings_is_refused_whatever_its_version(tmp_path: Path) -> None:
    run, config = earlier_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings: train\.learning_rate"):
        run.check(load_config(config, ["train.learning_rate=0.5"]))
