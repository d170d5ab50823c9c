"""A run killed at any moment and resumed ends with the weights of the undisturbed run, bit for bit."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.runs import forked
from tests.support.runs.commands import command
from tests.support.runs.resumed import assert_same, newest

pytestmark = pytest.mark.trains

STEPS = 20
OPTIONS = {
    "train": {"steps": STEPS},
    "checkpoint": {"every": 1, "keep_last": 2},
    "algorithm": {"inner_epochs": 2, "updates_per_batch": 2, "kl_coef": 0.02, "dead_groups": "resample"},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny.train(tiny.prepare(folder, **OPTIONS))
    return folder


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_nothing_saved_and_changes_no_bit(
    undisturbed: Path, tmp_path: Path, count: int
) -> None:
    config = tiny.prepare(undisturbed, **OPTIONS)
    started = time.monotonic()
    tiny.train(config, f"run_dir={tmp_path / 'timed'}", apart=True)
    seconds = time.monotonic() - started
    moments = random.Random(7)
    life = kills = saved = 0
    while kills < count:  # moments of the whole run: start-up, between steps and within a save
        run = tmp_path / f"life_{life}"
        process = forked.start(["train", str(config), f"run_dir={run}"])
        try:
            assert process.wait(moments.uniform(0.0, seconds)) == 0
            assert_same(run, undisturbed / "run", STEPS)
            life, saved = life + 1, 0
            continue
        except subprocess.TimeoutExpired:
            process.kill()
        kills, before, saved = kills + 1, saved, newest(run)
        assert saved >= before, "a saved checkpoint was lost"
    run = tmp_path / f"life_{life}"
    tiny.train(config, f"run_dir={run}")
    assert_same(run, undisturbed / "run", STEPS)


def test_a_finished_run_is_reported_again_and_not_trained_further(undisturbed: Path) -> None:
    config = tiny.prepare(undisturbed, **OPTIONS)
    before = (undisturbed / "run" / "metrics.jsonl").read_bytes()
    tiny.train(config)
    assert (undisturbed / "run" / "metrics.jsonl").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused_by_name(undisturbed: Path) -> None:
    config = tiny.prepare(undisturbed, **OPTIONS)
    done = command("train", config, "train.learning_rate=0.5")
    assert done.code == 2
    assert "train.learning_rate was 0.01, is 0.5" in done.err
    assert "Traceback" not in done.err


def test_a_corrupt_file_is_named(undisturbed: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(undisturbed / "run", run)
    victim = run / "checkpoints" / f"step_{STEPS}" / "policy" / "model.safetensors"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    config = tiny.prepare(undisturbed, **OPTIONS)
    done = command("train", config, f"run_dir={run}")
    assert done.code == 2
    assert f"{victim} is corrupt" in done.err
    assert "Traceback" not in done.err
