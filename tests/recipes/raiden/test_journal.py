"""Jobs that are killed, fail or run twice: nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.errors import DataError, ServerError
from mindrlhf_grpo.recipes.raiden.journal import Journal

JOBS = {f"job{number}": number for number in range(20)}


def square(number: int) -> dict[str, Any]:
    return {"square": number * number}


def test_results_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path, {"model": "m"}) as journal:
        journal.work_off(JOBS, square, threads=4)
    asked: list[int] = []
    with Journal(path, {"model": "m"}) as journal:
        journal.work_off({**JOBS, "more": 20}, lambda job: asked.append(job) or square(job), threads=4)
        assert journal.done["job7"] == {"square": 49}
        assert len(journal.done) == 21
    assert asked == [20]


def test_a_line_cut_by_a_kill_is_dropped_and_its_job_done_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, {}) as journal:
        journal.add("a", {"text": "你好"})
    with path.open("ab") as file:
        file.write(b'{"key": "b", "resu')
    with Journal(path, {}) as journal:
        assert journal.done == {"a": {"text": "你好"}}
        journal.add("b", {})
    with Journal(path, {}) as journal:
        assert list(journal.done) == ["a", "b"]
    assert "你好" in path.read_text(encoding="utf-8")


def test_a_failing_server_ends_the_work_and_keeps_what_was_done(tmp_path: Path) -> None:
    def work(number: int) -> dict[str, Any]:
        if number == 7:
            raise ServerError("gone")
        return square(number)

    with Journal(tmp_path / "j", {}) as journal:
        with pytest.raises(ServerError, match="gone"):
            journal.work_off(JOBS, work, threads=2)
        assert 5 <= len(journal.done) <= 9
        assert "job7" not in journal.done
        journal.work_off(JOBS, square, threads=2)
        assert sorted(journal.done) == sorted(JOBS)


def test_jobs_run_side_by_side_and_may_stay_undone(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=10)

    def work(number: int) -> dict[str, Any] | None:
        together.wait()
        return None if number % 2 else {}

    with Journal(tmp_path / "j", {}) as journal:
        journal.work_off(JOBS, work, threads=4)
        assert len(journal.done) == 10


def test_results_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"model": "old", "seed": 1}).__exit__(None, None, None)
    with pytest.raises(DataError, match="made with model 'old', now it is 'new'"):
        Journal(tmp_path / "j", {"model": "new", "seed": 1})


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1]\n", "no journal of jobs"), ('{"mine": 1}', "no journal of jobs"), ('{"key": "a"}\n', "no journal of jobs"), ('{"settings": {}}\n{broken\n', "j:2: invalid JSON")],
)  # fmt: skip
def test_a_file_that_is_no_journal_is_named_and_not_touched(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "j").write_text(content)
    with pytest.raises(DataError, match=said):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_text() == content


def test_two_processes_cannot_use_one_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}), pytest.raises(DataError, match="in use by another process"):
        Journal(tmp_path / "j", {})


PROGRAM = """
import sys, time
from pathlib import Path
from mindrlhf_grpo.recipes.raiden.journal import Journal

def work(number):
    time.sleep(0.02)
    return {"square": number * number}

with Journal(Path(sys.argv[1]), {}) as journal:
    journal.work_off({f"job{n}": n for n in range(200)}, work, threads=3)
"""


def test_nothing_is_lost_or_doubled_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "j"
    command = [sys.executable, "-c", PROGRAM, str(path)]
    for _ in range(2):
        killed = subprocess.Popen(command)
        lines = len(path.read_bytes().splitlines()) if path.exists() else 0
        while not path.exists() or len(path.read_bytes().splitlines()) < lines + 10:
            time.sleep(0.01)
            assert killed.poll() is None
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    subprocess.run(command, check=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert sorted(row["result"]["square"] for row in rows) == [n * n for n in range(200)]
