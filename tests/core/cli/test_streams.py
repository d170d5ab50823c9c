"""Standard streams that outlive their readers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindrlhf_grpo.cli.streams import Outliving, outliving_streams


def test_what_nobody_reads_is_dropped_and_the_rest_of_the_stream_works(tmp_path: Path) -> None:
    """Finding newcomer P2 (a closed log pipe)."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        stream = Outliving(pipe)
        assert stream.write("read") == 4
        stream.flush()
        assert os.read(read, 10) == b"read"
        os.close(read)
        for _ in range(3):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
        assert stream.encoding == pipe.encoding
        assert not stream.isatty()


def test_a_full_disk_under_the_log_is_survived_too() -> None:
    with open("/dev/full", "w") as full:
        stream = Outliving(full)
        stream.write("x" * 100_000)
        stream.flush()


def test_an_error_of_the_program_passes(capsys: pytest.CaptureFixture[str]) -> None:
    with outliving_streams():
        print("seen")
        with pytest.raises(TypeError):
            sys.stdout.write(3)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "seen\n"


def test_a_command_before_head_ends_quietly() -> None:
    program = [sys.executable, "-m", "mindrlhf_grpo", "explain"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(120) == 0
