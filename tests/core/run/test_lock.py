"""The lock of a run folder: held by one process, free when that has ended, however it ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.run import lock as lock_module
from mindrlhf_grpo.run.lock import FILE, RunLock

HOLDER = """
import sys, time
from pathlib import Path
from mindrlhf_grpo.run.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_name_and_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    """Finding newcomer P2 (two processes in one run_dir)."""
    first = hold(tmp_path)
    try:
        with pytest.raises(CheckpointError) as refused:
            RunLock(tmp_path).acquire()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert f"is in use by process {first.pid} on {socket.gethostname()} since 20" in str(refused.value)
    assert f"if it is no longer there, delete {tmp_path / FILE}" in str(refused.value)
    second = RunLock(tmp_path)
    assert f"was in use by process {first.pid} on {socket.gethostname()}" in second.acquire()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    second.release()
    assert not (tmp_path / FILE).exists()


def test_the_lock_is_free_after_its_release_and_new_in_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    for _ in range(2):
        lock = RunLock(folder)
        assert lock.acquire() == ""
        lock.release()


def test_an_earlier_run_of_the_same_process_does_not_stand_in_the_way(tmp_path: Path) -> None:
    failed = RunLock(tmp_path)
    failed.acquire()
    again = RunLock(tmp_path)
    assert again.acquire() == ""
    failed.release()
    assert (tmp_path / FILE).exists()
    again.release()


def other_machine(folder: Path) -> Path:
    """The file of an owner on another machine, whose kernel lock does not reach this one."""
    path = folder / FILE
    path.write_text(json.dumps({"pid": 7, "host": "node-9", "since": "2026-11-30 07:00:00"}))
    return path


def test_another_machine_that_touches_its_lock_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "WATCH", 30.0)
    path, ended = other_machine(tmp_path), threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    owner = threading.Thread(target=beat)
    owner.start()
    try:
        with pytest.raises(CheckpointError, match="in use by process 7 on node-9 since 2026-11-30"):
            RunLock(tmp_path).acquire()
    finally:
        ended.set()
        owner.join()


def test_a_machine_that_is_gone_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "WATCH", 0.2)
    other_machine(tmp_path)
    lock = RunLock(tmp_path)
    assert "process 7 on node-9" in lock.acquire()
    lock.release()


def test_the_owner_touches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "BEAT", 0.02)
    lock = RunLock(tmp_path)
    lock.acquire()
    path = tmp_path / FILE
    os.utime(path, (0, 0))
    for _ in range(500):
        if path.stat().st_mtime > 0:
            break
        threading.Event().wait(0.02)
    assert path.stat().st_mtime > 0
    lock.release()


def test_without_locks_of_the_file_system_the_process_number_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock_module.fcntl, "flock", unsupported)
    owner = {"pid": os.getppid(), "host": socket.gethostname(), "since": "now"}
    (tmp_path / FILE).write_text(json.dumps(owner))
    with pytest.raises(CheckpointError, match=f"process {os.getppid()} on"):
        RunLock(tmp_path).acquire()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / FILE).write_text(json.dumps({**owner, "pid": ended.pid}))
    lock = RunLock(tmp_path)
    assert f"process {ended.pid}" in lock.acquire()
    lock.release()
