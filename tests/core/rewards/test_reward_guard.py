"""Rewards that hang, die or misbehave fail their own samples only, and never stop the run."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards import Rewards, RewardTable, guard
from mindrlhf_grpo.rewards.guard import InProcess, Worker, run_guarded
from mindrlhf_grpo.rewards.resolve import resolve
from mindrlhf_grpo.rewards.rows import Failure, Rows
from mindrlhf_grpo.rewards.worker import GRACE

NAMED = "hostile"


def scored(group: Callable[..., object], completions: list[str], **config: object) -> RewardTable:
    with Rewards([RewardConfig(name=NAMED, **config)]) as rewards:
        return rewards.score([group(completions)])


@pytest.mark.parametrize("trouble", ["sleep", "spin", "stuck", "exit", "segfault", "raise", "sys.exit", "inf", "text"])
def test_in_a_process_only_the_guilty_sample_fails(
    group: Callable[..., object], hostile: str, trouble: str, caplog: pytest.LogCaptureFixture
):
    table = scored(group, ["a", trouble, "none"], function=f"{hostile}:hostile", timeout=1, on_failure=-2.0)
    assert table.values[:2, 0, 0].tolist() == [1.0, -2.0]
    assert table.values[2, 0, 0] != table.values[2, 0, 0]  # NaN: not applicable, and no failure
    assert table.failures == {NAMED: 1}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("trouble", ["raise", "sys.exit", "inf", "text"])
def test_in_this_process_only_the_guilty_sample_fails(group: Callable[..., object], hostile: str, trouble: str):
    table = scored(group, ["a", trouble, "b"], function=f"{hostile}:hostile", on_failure=-2.0)
    assert table.values[:, 0, 0].tolist() == [1.0, -2.0, 1.0]
    assert table.failures == {NAMED: 1}


@pytest.mark.parametrize("timeout", [0, 20])
@pytest.mark.parametrize("function", ["always_one", "text", "generator"])
def test_an_answer_of_the_wrong_shape_fails_every_sample(
    group: Callable[..., object], hostile: str, function: str, timeout: float
):
    table = scored(group, ["a", "b", "c"], function=f"{hostile}:{function}", timeout=timeout, on_failure=0.25)
    assert table.values[:, 0, 0].tolist() == [0.25, 0.25, 0.25]
    assert table.failures == {NAMED: 3}


def test_without_a_failure_value_a_failed_sample_is_not_applicable(group: Callable[..., object], hostile: str):
    table = scored(group, ["a", "raise"], function=f"{hostile}:hostile", on_failure=None)
    assert (table.total()[0, 0], str(table.total()[1, 0]), table.failures) == (1.0, "nan", {NAMED: 1})


def test_one_line_of_the_log_shows_the_first_failed_sample(
    group: Callable[..., object], hostile: str, caplog: pytest.LogCaptureFixture
):
    scored(group, ["a", "raise", "b", "raise"], function=f"{hostile}:hostile")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith(
        "reward hostile failed for 2 of 4 samples, which get 0.0; sample 1: ValueError: no such reward ("
    )
    assert text.endswith("prompt 'prompt'; completion 'raise'")


def test_hostile_text_in_the_log_stays_on_one_short_line(
    group: Callable[..., object], source: Callable[[str], str], caplog: pytest.LogCaptureFixture
):
    path = source("def f(completions):\n    raise ValueError(completions[0])")
    scored(group, ["\x1b[2J\n" * 100_000], function=f"{path}:f")
    text = caplog.records[0].getMessage()
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 1000


def test_a_batch_that_only_works_in_parts_is_reported(
    group: Callable[..., object], source: Callable[[str], str], caplog: pytest.LogCaptureFixture
):
    path = source("def f(completions):\n    assert len(completions) == 1, 'one at a time'\n    return [1.0]")
    table = scored(group, ["a", "b"], function=f"{path}:f")
    assert table.failures == {}
    assert "hostile scored the batch sample by sample, as in one call: AssertionError: one at a time" in caplog.text


def test_the_same_process_answers_until_it_is_killed(group: Callable[..., object], hostile: str):
    with Rewards([RewardConfig(function=f"{hostile}:pid", timeout=20)]) as rewards:
        first, second = (rewards.score([group(["a"])]).values.item() for _ in range(2))
        assert first == second != os.getpid()
        os.kill(int(first), signal.SIGKILL)
        third = rewards.score([group(["a", "b"])])
        assert third.failures == {}
        assert first not in third.values


def test_close_ends_the_process_and_its_children(group: Callable[..., object], source: Callable[[str], str]):
    path = source(
        "import os, subprocess\n"
        "CHILD = subprocess.Popen(['sleep', '3600'])\n"
        "def f(completions):\n    return [float(os.getpid()), float(CHILD.pid)]\n"
    )
    with Rewards([RewardConfig(function=f"{path}:f", timeout=20)]) as rewards:
        parent, child = rewards.score([group(["a", "b"])]).values[:, 0, 0].astype(int)
    assert ended(parent)
    assert ended(child)


def ended(pid: int) -> bool:
    """Return whether a process ends within a second; a dead one that nobody has waited for counts as ended."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_batch_where_all_hang_is_given_up(hostile: str, monkeypatch: pytest.MonkeyPatch):
    """Finding P3.9: a reward that always hangs cost its timeout for each sample of each step."""
    monkeypatch.setattr(guard, "HUNG_IN_A_ROW", 2)
    worker = Worker(resolve(f"{hostile}:hostile", {}, label="r"), 0.2)
    rows, _ = run_guarded(worker, {"completions": ["sleep"] * 6}, 6)
    assert rows[""][:2] == [Failure("no answer within 0.2 s")] * 2
    assert rows[""][2:] == [Failure("not tried: the sample before had no answer within 0.2 s")] * 4


class Hangs:
    """Runs nothing: the samples called ``sleep`` hang at once."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, inputs: dict[str, list[Any]], count: int) -> Rows:
        self.calls += 1
        if "sleep" in inputs["completions"]:
            raise guard.CallFailed(guard.Trouble.HUNG, "no answer")
        return {"": [1.0] * count}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("completions", "calls", "failed"),
    [
        (["sleep"] * 128, 1 + 4, 128),  # given up after 4 in a row
        (["sleep", "a"] * 64, 1 + 63, 32 + 65),  # after 32 of the batch
        (["sleep"] * 3 + ["a"] * 125, 1 + 128, 3),
        (["a"] * 128, 1, 0),
    ],
)
def test_the_calls_that_may_hang_have_a_limit(completions: list[str], calls: int, failed: int):
    """Finding P3.9: 128 samples and a timeout of 30 s took over an hour a step; now 2.5 min where all hang."""
    runner = Hangs()
    rows, _ = run_guarded(runner, {"completions": completions}, len(completions))
    assert (runner.calls, sum(isinstance(row, Failure) for row in rows[""])) == (calls, failed)


def test_a_function_that_cannot_be_loaded_in_the_process_fails_the_batch_once(
    source: Callable[[str], str], tmp_path: Path
):
    path = source(
        f"import os\nif not os.path.exists('{tmp_path}/there'):\n    raise OSError('gone')\ndef f(completions):\n    pass\n"
    )
    (tmp_path / "there").touch()
    reward = resolve(f"{path}:f", {}, label="r")
    (tmp_path / "there").unlink()
    rows, _ = run_guarded(Worker(reward, 5.0), {"completions": ["a", "b"]}, 2)
    assert all("its process did not start: ConfigError" in row.reason for row in rows[""] if isinstance(row, Failure))
    assert len(rows[""]) == 2


def test_columns_that_no_process_can_receive_are_named(hostile: str):
    reward = resolve(f"{hostile}:hostile", {}, label="r")
    worker = Worker(reward, 5.0)
    rows, _ = run_guarded(worker, {"completions": [lambda: None]}, 1)
    worker.close()
    assert isinstance(rows[""][0], Failure)
    assert rows[""][0].reason.startswith("its columns cannot be sent to a process")


@pytest.mark.parametrize("timeout", [0, 20])
def test_a_mistake_of_the_user_stops_the_run(
    group: Callable[..., object], source: Callable[[str], str], timeout: float
):
    text = "from mindrlhf_grpo.errors import ConfigError\ndef f(completions):\n    raise ConfigError('no such table')"
    config = RewardConfig(function=f"{source(text)}:f", timeout=timeout)
    with Rewards([config]) as rewards, pytest.raises(ConfigError, match="no such table"):
        rewards.score([group(["1"])])


def test_an_interrupt_is_not_taken_for_a_failure(source: Callable[[str], str]):
    reward = resolve(source("def f(completions):\n    raise KeyboardInterrupt") + ":f", {}, label="r")
    with pytest.raises(KeyboardInterrupt):
        run_guarded(InProcess(reward), {"completions": ["a"]}, 1)


def test_what_a_reward_prints_stays_out_of_the_output(hostile: str):
    code = (
        "from mindrlhf_grpo.rewards.guard import Worker; from mindrlhf_grpo.rewards.resolve import resolve\n"
        f"worker = Worker(resolve({hostile + ':hostile'!r}, {{}}, label='r'), 20.0)\n"
        "print(worker.run({'completions': ['print']}, 1)); worker.close()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "{'': [0.5]}\n"
    assert "chatter" in run.stderr


def test_a_process_does_not_outlive_a_killed_trainer(hostile: str):
    code = (
        "import os, signal\n"
        "from mindrlhf_grpo.rewards.guard import Worker; from mindrlhf_grpo.rewards.resolve import resolve\n"
        f"worker = Worker(resolve({hostile + ':pid'!r}, {{}}, label='r'), 20.0)\n"
        "print(int(worker.run({'completions': ['a']}, 1)[''][0]), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    assert ended(int(run.stdout))


def test_a_script_without_a_main_guard_can_use_a_process(hostile: str, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "from mindrlhf_grpo.rewards.guard import Worker\nfrom mindrlhf_grpo.rewards.resolve import resolve\n"
        f"print(Worker(resolve({hostile + ':hostile'!r}, {{}}, label='r'), 20.0).run({{'completions': ['a']}}, 1))\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert run.stdout == "{'': [1.0]}\n"


def test_a_hung_process_ends_itself_when_the_trainer_is_gone(hostile: str):
    code = (
        "import os, signal, threading\n"
        "from mindrlhf_grpo.rewards.guard import Worker; from mindrlhf_grpo.rewards.resolve import resolve\n"
        f"worker = Worker(resolve({hostile + ':hostile'!r}, {{}}, label='r'), 0.5)\n"
        "worker.run({'completions': ['a']}, 1)\n"
        "print(worker._process.pid, flush=True)\n"
        "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "worker.run({'completions': ['stuck']}, 1)"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    time.sleep(GRACE + 0.5)
    assert ended(int(run.stdout))
