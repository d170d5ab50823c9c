"""A MindSpore run killed or stopped by a signal and resumed ends with the weights of the undisturbed run, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.runs.commands import command
from tests.support.runs.resumed import act_at_step_3, assert_same, newest, prepare_acting

pytest.importorskip("mindspore")

pytestmark = pytest.mark.trains

STEPS = 4
OPTIONS = {
    "backend": "mindspore",
    "train": {"steps": STEPS},
    "checkpoint": {"every": 1, "keep_last": 2},
    "algorithm": {"inner_epochs": 2, "kl_coef": 0.02},
}
PATIENCE = 280.0  # seconds until the second checkpoint, compilation included


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a run that nothing happens to, and beside it the run."""
    config = prepare_acting(tmp_path_factory.mktemp("undisturbed"), layers=1, **OPTIONS)
    tiny.train(config)
    return config


@pytest.mark.slow  # the session is the core's, shown on torch; kill -9 below
def test_sigterm_ends_a_run_after_its_step_and_changes_no_bit(undisturbed: Path, tmp_path: Path) -> None:
    """Finding newcomer P2 (saving on SIGTERM), on MindSpore."""
    run = tmp_path / "stopped"
    act_at_step_3(undisturbed, "os.kill(os.getpid(), signal.SIGTERM)")
    done = command("train", undisturbed, f"run_dir={run}", "checkpoint.every=0")
    assert done.code == 143
    assert "SIGTERM ended the run after step 3, which is saved" in done.err
    assert newest(run) == 3
    tiny.train(undisturbed, f"run_dir={run}")
    assert_same(run, undisturbed.parent / "run", STEPS)


@pytest.mark.slow  # conformance resumes bit for bit; torch kills
@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_kill_9_between_two_checkpoints_changes_no_bit(undisturbed: Path, tmp_path: Path) -> None:
    config = undisturbed
    run = tmp_path / "killed"
    process = subprocess.Popen(
        tiny.command(config, f"run_dir={run}"),
        env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while newest(run) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= newest(run) < STEPS, "it was not killed in the middle of the run"
    tiny.train(config, f"run_dir={run}")
    assert_same(run, undisturbed.parent / "run", STEPS)
