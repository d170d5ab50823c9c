"""What clusters and laptops do to runs: signals, a second process, full disks, too little memory, closed pipes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo.run import checkpoint
from mindrlhf_grpo.run.lock import FILE
from tests.support import tiny
from tests.support.runs import forked, offline_runs
from tests.support.runs.commands import command
from tests.support.runs.resumed import act_at_step_3, assert_same, prepare_acting

pytestmark = pytest.mark.trains

STEPS = 5
OPTIONS: dict[str, Any] = {
    "train": {"steps": STEPS},
    "algorithm": {"inner_epochs": 2, "kl_coef": 0.02},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("machines")
    assert command("train", prepare_acting(folder, **OPTIONS)).code == 0
    return folder


def assert_resumed(folder: Path, run: Path) -> None:
    """The same command goes on and ends as the undisturbed run."""
    assert command("train", folder / "config.yaml", f"run_dir={run}").code == 0
    assert_same(run, folder / "run", STEPS)


# ---- signals


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_an_online_run_after_its_step_with_a_checkpoint(
    undisturbed: Path, tmp_path: Path, name: str, code: int
) -> None:
    """Finding newcomer P2 (saving on Ctrl-C or SIGTERM), torch.md 5 (SIGTERM, preemption); resuming is exact."""
    act_at_step_3(undisturbed / "config.yaml", f"os.kill(os.getpid(), signal.{name})")
    run = tmp_path / "run"
    done = command("train", undisturbed / "config.yaml", f"run_dir={run}")
    assert done.code == code
    assert done.err.endswith(
        f"error: {name} ended the run after step 3, which is saved; the same command goes on from there\n"
    )
    assert checkpoint.steps(run / "checkpoints") == [3]
    assert len(tiny.metrics(run)) == 3
    assert not (run / "summary.json").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert_resumed(undisturbed, run)


def test_a_signal_ends_an_offline_run_in_the_same_way(tmp_path: Path) -> None:
    """Finding newcomer P2 (saving on Ctrl-C or SIGTERM): offline runs too."""
    folder = offline_runs.prepare(tmp_path)
    values = offline_runs.settings(folder, "chats", {"name": "sft"}, train={"steps": 4})
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    assert command("train", config, f"run_dir={tmp_path / 'undisturbed'}").code == 0
    trainer_step = "mindrlhf_grpo.trainers.offline.OfflineTrainer.step"
    with pytest.MonkeyPatch.context() as patch:
        from mindrlhf_grpo.trainers.offline import OfflineTrainer

        original = OfflineTrainer.step

        def step(self: OfflineTrainer, number: int, clock: Any) -> None:
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            original(self, number, clock)

        patch.setattr(trainer_step, step)
        done = command("train", config)
    assert done.code == 143
    assert "SIGTERM ended the run after step 2" in done.err
    assert command("train", config).code == 0
    assert_same(folder / "run", tmp_path / "undisturbed", 4)


def test_before_the_first_step_sigterm_ends_a_run_at_once(tmp_path: Path) -> None:
    config = tiny.prepare(tmp_path, data={"source": f"{tmp_path / 'rows.py'}:rows"})
    (tmp_path / "rows.py").write_text(
        "import os, signal\ndef rows():\n    os.kill(os.getpid(), signal.SIGTERM)\n    return []\n"
    )
    done = command("train", config)
    assert done.code == 143
    assert "error: terminated" in done.err


def wait_for(condition: Any, process: forked.Command, seconds: float = 240) -> None:
    """Wait until something has happened, while the process lives."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.said()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_second_process_is_refused_and_a_second_signal_ends_the_first_at_once(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Findings newcomer P2 (two processes in one run_dir; Ctrl-C): with real processes."""
    run, config = tmp_path / "run", undisturbed / "config.yaml"
    act_at_step_3(config, "time.sleep(600)")
    first = forked.start(["train", str(config), f"run_dir={run}"])
    try:
        metrics = run / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") == 2, first)
        before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
        second = command("train", config, f"run_dir={run}")
        assert second.code == 2
        assert f"{run} is in use by process {first.pid} on " in second.err
        assert before == {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
        first.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        first.send_signal(signal.SIGTERM)  # the launcher's copy of the same signal
        time.sleep(2.5)
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130
    finally:
        first.kill()
        err = first.err.read_text()
    assert err.count("SIGTERM: the step under way is finished and saved, then the run ends") == 1
    assert err.endswith("a second signal, SIGINT: ended at once\n")
    assert (run / FILE).exists()  # it had no time to remove it
    assert_resumed(undisturbed, run)
    assert f"process {first.pid} on" in (run / "summary.json").read_text()  # said that it was taken over
    assert not (run / FILE).exists()


# ---- disk


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: a disk that is full for some files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_does_not_fit_is_an_alarm_and_the_last_one_an_error(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Finding newcomer P3.7, torch.md 5 (disk full): with a real limit, which torch and safetensors run into."""
    run, config = tmp_path / "run", undisturbed / "config.yaml"
    with largest_file(60_000):
        done = command("train", config, f"run_dir={run}", "checkpoint.every=2")
    assert done.code == 3
    assert done.err.count("alarm checkpoint at step ") == 2
    assert "alarm checkpoint at step 2: the checkpoint of step 2 could not be written: " in done.err
    assert "the run goes on and tries again with the next checkpoint" in done.err
    assert "error: the checkpoint of step 5 could not be written: " in done.err
    assert "there is no earlier checkpoint. Make room, or keep fewer (checkpoint.keep_last)" in done.err
    needed = float(done.err.split("It needs about ")[-1].split(" KiB")[0])
    assert [path.name for path in (run / "checkpoints").iterdir()] == []
    assert len(tiny.metrics(run)) == STEPS
    assert command("train", config, f"run_dir={run}", "checkpoint.every=2").code == 0
    assert_same(run, undisturbed / "run", STEPS)
    weights_and_moments = sum(
        (run / "checkpoints" / f"step_{STEPS}" / name).stat().st_size
        for name in ("policy/model.safetensors", "optimizer/optimizer.safetensors")
    )
    assert needed == pytest.approx(weights_and_moments / 1024, rel=0.05)  # the headers are not counted


def test_a_full_disk_under_the_rollouts_ends_the_run_with_its_phase_and_leaves_no_half_file(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Finding newcomer P3.7, its kind: every other file of a run."""
    run, config = tmp_path / "run", undisturbed / "config.yaml"
    with largest_file(3_000):
        done = command("train", config, f"run_dir={run}")
    assert done.code == 3
    assert "error: no space to write a file in the phase save: [Errno 27] File too large; " in done.err
    assert f" are free in {run}. Make room; {run} has no checkpoint yet" in done.err
    assert list((run / "rollouts").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 480 kB, which root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=480k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_earlier_checkpoints_stay_and_the_run_goes_on_when_there_is_room(
    undisturbed: Path, small_disk: Path
) -> None:
    """Finding newcomer P3.7: a real disk with room for one checkpoint and a half."""
    run, config = small_disk / "run", undisturbed / "config.yaml"
    overrides = (f"run_dir={run}", "checkpoint.every=2", "checkpoint.keep_last=0", "tracking.rollouts_every=0")
    done = command("train", config, *overrides)
    assert done.code == 3
    assert "alarm checkpoint at step 4: the checkpoint of step 4 could not be written: " in done.err
    assert "the checkpoint of step 2 is kept" in done.err
    assert checkpoint.steps(run / "checkpoints") == [2]
    assert checkpoint.damage(run / "checkpoints" / "step_2") == ""
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert command("train", config, *overrides).code == 0
    assert checkpoint.steps(run / "checkpoints") == [2, 4, 5]
    assert_same(run, undisturbed / "run", STEPS)


def test_a_damaged_checkpoint_is_skipped_with_a_key(undisturbed: Path, tmp_path: Path) -> None:
    """Finding torch.md 5 (the previous checkpoint is not offered): the key that the error names works, and is exact."""
    run, config = tmp_path / "run", undisturbed / "config.yaml"
    overrides = (f"run_dir={run}", "checkpoint.every=2", "checkpoint.keep_last=0")
    assert command("train", config, *overrides).code == 0
    (run / "summary.json").unlink()
    weights = run / "checkpoints" / f"step_{STEPS}" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = command("train", config, *overrides)
    assert done.code == 2
    assert "checkpoint.damaged=skip goes on from there" in done.err
    done = command("train", config, *overrides, "checkpoint.damaged=skip")
    assert done.code == 0
    assert "resumed after step 4" in done.err
    assert_same(run, undisturbed / "run", STEPS)


# ---- memory


def out_of_memory(kind: str) -> Any:
    import torch

    def fail(*_: Any, **__: Any) -> None:
        if kind == "device":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1.2 GiB free.")
        torch.zeros(10**15)  # the processor's own error, of no class of its own

    return fail


@pytest.mark.parametrize(
    ("method", "kind", "phase", "keys"),
    [
        ("update", "device", "update", "Lower train.tokens_per_micro_batch (now 8192: micro-batches of up to "),
        ("logps", "host", "logps", "set model.recompute=true, swap={}, model.dtype=bfloat16, model.lora_rank=32"),
    ],
)
def test_too_little_memory_is_told_with_phase_need_and_keys(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str, phase: str, keys: str
) -> None:
    """Finding torch.md 5 (CUDA OOM was called a bug, exit code 70)."""
    from mindrlhf_grpo_torch.training.policy import TorchPolicy

    monkeypatch.setattr(TorchPolicy, method, out_of_memory(kind))
    done = command("train", undisturbed / "config.yaml", f"run_dir={tmp_path / 'run'}")
    assert done.code == 3
    amount = {"device": "2.5 GiB", "host": "3,725,290.3 GiB"}[kind]
    assert f"error: out of memory in the phase {phase}: {amount} could not be had. " in done.err
    assert keys in done.err
    assert "bug" not in done.err


def test_too_little_memory_for_the_model_is_no_bug_either(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mindrlhf_grpo_torch.backend import TorchBackend

    monkeypatch.setattr(TorchBackend, "load_policy", out_of_memory("host"))
    done = command("train", undisturbed / "config.yaml", f"run_dir={tmp_path / 'run'}")
    assert done.code == 3
    assert "error: out of memory: 3,725,290.3 GiB could not be had. Set swap={}, model.dtype=bfloat16" in done.err


# ---- pipes


def test_training_outlives_the_reader_of_its_log(undisturbed: Path, tmp_path: Path) -> None:
    """Finding newcomer P2 (a closed log pipe ended training with exit code 0 and nothing trained)."""
    run, config = tmp_path / "run", undisturbed / "config.yaml"
    act_at_step_3(config, "print('a reward that prints' * 10_000, flush=True)")
    process = subprocess.Popen(
        tiny.command(config, f"run_dir={run}"),
        env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(300) == 0
    assert_same(run, undisturbed / "run", STEPS)
