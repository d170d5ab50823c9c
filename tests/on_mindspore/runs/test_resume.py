"""A MindSpore run killed with ``kill -9`` and resumed ends with the weights of the undisturbed run, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.runs.resumed import assert_same, newest

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


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_kill_9_between_two_checkpoints_changes_no_bit(tmp_path: Path) -> None:
    config = tiny.prepare(tmp_path, layers=1, **OPTIONS)
    tiny.train(config)
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
    assert_same(run, tmp_path / "run", STEPS)
