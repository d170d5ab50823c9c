"""Two ranks end together: stopped by a signal, failing, or not seeing the same checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.run import checkpoint
from tests.support import tiny
from tests.support.runs import forked, ranks_apart

pytestmark = pytest.mark.trains
STEPS = 4
SCALED = """import os

def scaled(xp, ratio, log_ratio, advantages, logps):
    return -ratio * advantages * float(os.environ.get("FACTOR", "1"))
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of two ranks, and what each rank said."""
    folder = tmp_path_factory.mktemp("ranks")
    config = tiny.prepare(folder, train={"steps": STEPS})
    (folder / "scaled.py").write_text(SCALED)
    forked.finish(forked.ranks([ranks_apart.__file__, str(config), str(folder)], 2))
    return folder


@pytest.mark.slow
def test_torchrun_passes_sigterm_on_and_both_ranks_save_together(tmp_path: Path) -> None:
    config = tiny.prepare(tmp_path, train={"steps": 100_000})
    job = subprocess.Popen(
        tiny.command(config, processes=2),
        env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < until
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    output = job.communicate(timeout=100)[0]
    made = len(tiny.metrics(tmp_path / "run"))
    assert checkpoint.newest(tmp_path / "run" / "checkpoints", skip_damaged=False)[0] is not None
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [made]
    assert output.count(f"SIGTERM ended the run after step {made}, which is saved") == 1
    assert job.returncode != 0


def said(folder: Path, case: str) -> list[dict[str, Any]]:
    """What both ranks said, in their order."""
    texts = [ranks_apart.said_by(folder, rank).read_text() for rank in range(2)]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return [line for line in lines if line["case"] == case]


def test_a_signal_to_one_rank_ends_all_of_them_after_the_same_step(ranks: Path) -> None:
    """Finding torch.md 5 (SIGTERM, preemption): ranks agree at the end of a step and save together."""
    text = "SIGTERM ended the run after step 2, which is saved; the same command goes on from there"
    assert [(line["text"], line["code"]) for line in said(ranks, "stopped")] == [(text, 143), (text, 143)]


def test_the_stopped_run_is_resumed_by_both(ranks: Path) -> None:
    assert [line["text"] for line in said(ranks, "resumed")] == ["no error", "no error"]
    assert checkpoint.steps(ranks / "stopped" / "checkpoints") == [2, STEPS]
    assert len(tiny.metrics(ranks / "stopped")) == STEPS


def test_ranks_that_do_not_see_the_same_checkpoint_refuse_together(ranks: Path) -> None:
    """Finding torch.md B8 (without a shared file system ranks resumed at different steps)."""
    texts = [line["text"] for line in said(ranks, "blind")]
    assert texts[0] == texts[1]
    assert (
        f"rank 0 goes on from {ranks / 'stopped' / 'checkpoints' / f'step_{STEPS}'}, which rank 1 does not see"
        in texts[0]
    )
    assert "run_dir must be on a file system that all machines share" in texts[0]


def test_the_evidence_of_a_failed_step_holds_the_rows_of_every_rank(ranks: Path) -> None:
    """Finding torch.md 5 (evidence was rank 0's rows only)."""
    texts = [line["text"] for line in said(ranks, "failing")]
    folder = ranks / "failing" / "failure"
    assert all(text.startswith("step 1: ") for text in texts)
    assert f"The batch is in {folder / 'step_1.npz'} (its rows on other ranks in step_1_rank_N.npz)" in texts[0]
    assert f"The batch is in {folder / 'step_1_rank_1.npz'}" in texts[1]
    rows = [np.load(folder / name)["ids"] for name in ("step_1.npz", "step_1_rank_1.npz")]
    assert [len(part) for part in rows] == [8, 8]  # two of four prompts each, in groups of four
    assert not np.array_equal(rows[0], rows[1])
    assert (folder / "step_1_rank_1.txt").is_file()
