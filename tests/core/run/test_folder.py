"""The run folder: what a run of an earlier version left is resumed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindrlhf_grpo import __version__
from mindrlhf_grpo.config import yaml_source
from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.run import checkpoint
from mindrlhf_grpo.run.folder import RunFolder
from mindrlhf_grpo.trainers.epochs import in_steps
from mindrlhf_grpo.trainers.resolved import resolved_settings
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


def test_a_run_whose_rates_end_with_it_is_not_made_longer(tmp_path: Path) -> None:
    """Finding P3.2: with a cosine, train.steps=8 after 4 gave the steps already made other learning rates."""
    config = write_run(tmp_path)
    settings = load_config(config, ["train.schedule=cosine"])
    run = RunFolder(settings.run_dir)
    run.open(settings, {})
    run.checkpoint(1).mkdir(parents=True)
    run.check(settings)
    with pytest.raises(
        CheckpointError, match=r"train\.steps was 3, is 9 \(its learning rates are spread over all steps"
    ):
        run.check(load_config(config, ["train.schedule=cosine", "train.steps=9"]))


def test_the_files_of_a_checkpoint_follow_the_umask(tmp_path: Path) -> None:
    """Finding P3.10: weights were readable by their owner alone, everything else by all."""

    def write(folder: Path) -> None:
        for name in ("policy/model.safetensors", "optimizer/optimizer.safetensors"):
            (folder / name).write_bytes(b"x")
            (folder / name).chmod(0o600)

    before = os.umask(0o027)
    try:
        saved = checkpoint.save(tmp_path / "checkpoints", 1, {}, write)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in saved.rglob("*") if path.is_file()} == {"0o640"}


def test_the_numbers_that_a_preset_fills_in_are_written_down(tmp_path: Path) -> None:
    """Finding P3.4: config.yaml said ``clip_low: null`` and nothing said 0.2."""
    overrides = ["algorithm.preset=verl", "train.steps=40", "train.warmup_steps=0.1", "train.schedule=linear"]
    settings = load_config(write_run(tmp_path), overrides)
    run = RunFolder(settings.run_dir)
    run.open(settings, {}, resolved_settings(settings))
    written = yaml_source.parse((run.path / "resolved.yaml").read_text()).value
    algorithm = written["algorithm"]
    assert (algorithm["clip_low"], algorithm["clip_high"], algorithm["dual_clip"]) == (0.2, 0.2, 3.0)
    assert (algorithm["kl_coef"], algorithm["aggregation"], algorithm["needs"]) == (0.0, "token_mean", [])
    assert algorithm["loss"]["name"] == "ppo"
    assert written["train"]["warmup_steps"] == 4
    assert written["train"]["first_learning_rate"] == 0.00025
    assert abs(written["train"]["last_learning_rate"] - 1e-3 / 36) < 1e-12


def test_the_numbers_of_an_objective_are_written_down() -> None:
    given = {"model": {"path": "m"}, "data": {"source": "d"}, "objective": {"name": "dpo"}}
    written = resolved_settings(OfflineConfig.model_validate(given))
    assert written["objective"]["name"] == "dpo"
    assert written["objective"]["loss"]["beta"] == 0.1


def test_a_run_in_epochs_is_resumed_and_its_length_is_compared_as_given(tmp_path: Path) -> None:
    """Finding P3.2: the steps of a run in epochs follow from its rows, and are not in its config.yaml."""
    config = write_run(tmp_path)
    config.write_text(config.read_text().replace("  steps: 3\n", "  epochs: 2\n  schedule: cosine\n"))
    settings = load_config(config, [])
    run = RunFolder(settings.run_dir)
    run.open(in_steps(settings, 9), {})
    run.checkpoint(1).mkdir(parents=True)
    run.check(in_steps(settings, 9))
    with pytest.raises(CheckpointError, match=r"settings: train\.epochs was 2\.0, is 3\.0 \(its learning rates"):
        run.check(in_steps(load_config(config, ["train.epochs=3"]), 9))
