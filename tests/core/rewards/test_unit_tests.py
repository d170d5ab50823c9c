"""Code is run against the tests of its row, within limits; nothing but reaching the end of the tests earns the reward."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards.builtin.unit_tests import last_fenced, program, unit_tests

TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n"
HEADER = 'def add(a, b):\n    """Add two numbers."""\n'
GOOD = "def add(a, b):\n    return a + b\n"


def scored(completion: str, prompt: str = HEADER, **settings: Any) -> Any:
    """Score one completion of the function ``add``."""
    settings = {"test": [TEST], "entry_point": ["add"], "seconds": 20, **settings}
    (value,) = unit_tests([prompt], [completion], [[]], **settings)
    return value


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nIt adds."


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (GOOD, 1),
        (fenced(GOOD), 1),
        ("    return a + b\n", 1),  # continues the prompt
        (fenced("def add(a, b):\n    return 0") + fenced(GOOD), 1),
        (f"<think>{fenced('nonsense')}</think>{fenced(GOOD)}", 1),
        (fenced(GOOD + "if __name__ == '__main__':\n    print(add(*map(int, input().split())))"), 1),
        (fenced("from math import fsum\nadd = lambda a, b: int(fsum([a, b]))"), 1),
        (fenced("def add(a, b):\n    return a - b"), 0),
        (fenced("def add(a, b) return a + b"), 0),
        (fenced("def plus(a, b):\n    return a + b"), 0),
        ("I do not know.", 0),
        ("", 0),
    ],
)
def test_code_passes_or_fails_its_tests(completion: str, value: int):
    assert scored(completion) == value


@pytest.mark.parametrize(
    "trick",
    [
        "raise SystemExit(0)",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def add(a, b):\n    raise SystemExit(0)",
        "print('passed')\nprint('OK')\nimport os\nos._exit(0)",
        "import os\nfor pipe in range(3, 40):\n    try:\n        os.write(pipe, b'1' * 32)\n    except OSError:\n        pass",
        "class Equal(int):\n    pass\nimport atexit\natexit.register(print, 'OK')\nraise KeyboardInterrupt",
    ],
)
def test_leaving_early_and_forged_success_earn_nothing(trick: str):
    assert scored(fenced(f"def add(a, b):\n    return 0\n{trick}")) == 0


def test_an_endless_loop_is_stopped():
    start = time.monotonic()
    loops = ["while True:\n    pass", "import time\ntime.sleep(3600)",
             "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"]  # fmt: skip
    values = unit_tests(
        [HEADER] * 3, [fenced(GOOD + loop) for loop in loops], [[]] * 3, test=[TEST] * 3, entry_point=["add"] * 3,
        seconds=1,
    )  # fmt: skip
    assert values == [0, 0, 0]
    assert time.monotonic() - start < 60  # about 2


def test_memory_is_limited():
    assert scored(fenced(GOOD + "hog = bytearray(2 << 30)"), memory_mb=512) == 0
    assert scored(fenced(GOOD + "fits = bytearray(64 << 20)"), memory_mb=512) == 1


@pytest.mark.parametrize(
    "write",
    [
        "open({path!r}, 'w').write('x')",
        "import os\nos.open({path!r}, os.O_CREAT | os.O_WRONLY)",
        "import pathlib\npathlib.Path({path!r}).touch()",
        "import os\nos.mkdir({path!r})",
        "import os\nos.system('touch {path}')",
        "import subprocess\nsubprocess.run(['touch', {path!r}])",
        "import ctypes\nctypes.CDLL(None).creat({path!r}.encode(), 0o600)",
        "import sqlite3\nsqlite3.connect({path!r}).execute('create table t(x)')",
    ],
)
def test_files_cannot_be_written(tmp_path: Path, write: str):
    path = tmp_path / "written"
    assert scored(fenced(GOOD + write.format(path=str(path)))) == 0
    assert not path.exists()


def test_existing_files_stay(tmp_path: Path):
    path = tmp_path / "kept"
    path.write_text("kept")
    for code in ("os.remove({0!r})", "os.rename({0!r}, {0!r} + '2')", "os.truncate({0!r}, 0)", "open({0!r}, 'r+')"):
        assert scored(fenced(f"{GOOD}import os\n{code.format(str(path))}")) == 0
    assert path.read_text() == "kept"


def test_no_connection_is_made():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert scored(fenced(f"{GOOD}import socket\nsocket.create_connection(('127.0.0.1', {port}))")) == 0
        assert scored(fenced(f"{GOOD}from urllib.request import urlopen\nurlopen('http://127.0.0.1:{port}')")) == 0
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_program_can_go_on_after_a_refusal():
    code = "import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    pass\n"
    assert scored(fenced(code + GOOD)) == 1


def test_megabytes_of_output_are_dropped():
    assert scored(fenced(GOOD + "import sys\nprint('x' * 50_000_000)\nprint('x' * 5_000_000, file=sys.stderr)")) == 1


def test_secrets_of_the_environment_are_not_passed_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVICE_TOKEN", "secret")
    assert scored(fenced(GOOD + "import os\nassert 'SERVICE_TOKEN' not in os.environ")) == 1


def test_a_list_of_tests_counts_as_a_whole_or_by_share():
    tests = ["assert add(1, 1) == 2", "assert add(1, 1) == 3", "assert add(0, 0) == 0"]
    assert scored(GOOD, test=None, entry_point=None, test_list=[tests]) == 0
    assert scored(GOOD, test=None, entry_point=None, test_list=[tests], score="share") == pytest.approx(
        2 / 3, abs=1e-12
    )
    assert scored(GOOD, test=None, entry_point=None, tests=[json.dumps(tests[::2])]) == 1


def test_starter_code_comes_before_the_completion():
    settings = {"starter_code": ["from math import pi\n"], "test": ["assert area(1) == pi"], "entry_point": None}
    assert scored("def area(r):\n    return pi * r * r", prompt="What is the area?", **settings) == 1


def test_a_row_without_tests_is_not_applicable_and_a_broken_one_fails():
    assert scored(GOOD, test=[None]) is None
    assert "a test is no Python" in str(scored(GOOD, test=["def ("]))
    assert "no entry_point" in str(scored(GOOD, entry_point=[None]))
    assert "must be the name of a function" in str(scored(GOOD, entry_point=["a; b"]))
    assert "tests must be Python text" in str(scored(GOOD, test=[7]))


def test_the_program_of_a_completion():
    assert last_fenced("no code") is None
    assert last_fenced("```py\na\n```\n```\nb\n```") == "b\n"
    assert last_fenced("```python\ncut") == "cut"
    assert program(HEADER, "    return a + b", "add", None) == HEADER + "    return a + b"
    assert program("Why?<think>", "hm</think>" + GOOD, "add", None) == GOOD.strip()


def test_it_runs_in_a_killable_process(group: Callable[..., Any]):
    config = RewardConfig(function="unit_tests", arguments={"seconds": 1}, timeout=60)
    endless = fenced(GOOD + "while True:\n    pass")
    with Rewards([config]) as rewards:
        table = rewards.score([group([fenced(GOOD), endless, "no"], prompt=HEADER, test=TEST, entry_point="add")])
    assert table.values[:, 0, 0].tolist() == [1, 0, 0]
    assert not table.failures


def test_data_without_tests_is_refused_before_the_run():
    with Rewards([RewardConfig(function="unit_tests")]) as rewards:
        with pytest.raises(
            ConfigError, match="needs one of the columns test, tests, test_list; columns there are: answer"
        ):
            rewards.check(["answer"])
        rewards.check(["test_list"])
