"""Unit tests: the code in the completion passes the tests of its row (HumanEval, MBPP and the like).

Each program runs in a process of its own (``confined_program.py``) with limits on processor and wall time, memory, files and
network. These limits stop accidents and the usual ways to earn a reward without solving the task: endless loops, memory,
leaving early, printing success. They are no sandbox against code that is written to break out of it: the program has the
rights of this user, may read every file that the user may read, and runs in one interpreter with its tests. Train on models or
data that you do not trust only in a container without secrets and without network.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ...chat.thoughts import without_thoughts
from ...errors import DataError

FENCE = "```"
HEADER_LINE = re.compile(r"(?:python|py|python3)?[ \t]*\n")
PROGRAM = Path(__file__).with_name("confined_program.py")
ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SUCCESS_BYTES = 4096  # of a report that are read; more is a forgery


def unit_tests(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    test: list[Any] | None = None,
    tests: list[Any] | None = None,
    test_list: list[Any] | None = None,
    entry_point: list[Any] | None = None,
    starter_code: list[Any] | None = None,
    seconds: Annotated[float, Field(gt=0, le=600)] = 5.0,
    memory_mb: Annotated[int, Field(ge=64)] = 1024,
    score: Literal["all", "share"] = "all",
    at_once: Annotated[int, Field(ge=1, le=64)] = 4,
) -> list[float | Exception | None]:
    """Return 1 where the code passes every test of its row, else 0; None for a row without tests.

    The code is the last fenced block after the thought, else the text after it. Where it lacks ``def ENTRY_POINT``, it
    continues ``starter_code``, or the prompt. A test that defines ``check`` is called as ``check(ENTRY_POINT)``.

    Args:
        test, tests, test_list: columns, of which each row has one: Python text, or a list of such texts that run one after
            the other (JSON text of a list, too).
        entry_point: column with the name of the function under test.
        starter_code: column with the code before the completion.
        seconds: limit of time for one program and its tests, on the processor, and with one second more on the clock.
        memory_mb: limit of its address space.
        score: ``share``: the share of a list of tests that pass, in 0..1.
        at_once: programs that run at the same time.
    """
    count = len(completions)
    nothing: list[Any] = [None] * count

    def run_row(row: int) -> float | Exception | None:
        columns = (test or nothing, tests or nothing, test_list or nothing)
        given = next((column[row] for column in columns if column[row] is not None), None)
        if given is None:
            return None
        name = (entry_point or nothing)[row]
        try:
            parts = read_tests(given, name)
        except DataError as error:
            return error
        code = program(prompts[row], completions[row], name, (starter_code or nothing)[row])
        groups = [parts] if score == "all" else [[part] for part in parts]
        passed = [passes(code, group, seconds=seconds, memory_mb=memory_mb) for group in groups]
        return sum(passed) / len(passed)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(run_row, range(count)))


def read_tests(value: Any, entry_point: str | None) -> list[str]:
    """Return a row's tests as programs.

    Raises:
        DataError: neither text nor a list of texts, no test, a test that is no Python, ``check`` without an entry point.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"tests must be Python text or a list of such texts, not {value!r:.80}")
    if entry_point is not None and not str(entry_point).isidentifier():
        raise DataError(f"entry_point must be the name of a function, not {entry_point!r:.80}")
    parts = []
    for text in texts:
        try:
            compile(text, "test", "exec")
        except (SyntaxError, ValueError) as error:
            raise DataError(f"a test is no Python: {error}") from error
        if re.search(r"^def check\(", text, re.MULTILINE):
            if entry_point is None:
                raise DataError("a test defines check, but the row has no entry_point to call it with")
            text = f"{text}\n\ncheck({entry_point})\n"
        parts.append(text)
    return parts


def program(prompt: str, completion: str, entry_point: str | None, starter_code: str | None) -> str:
    """Return the program that a completion stands for."""
    answer = without_thoughts(completion, prompt)
    fenced = last_fenced(answer)
    code = answer if fenced is None else fenced
    if entry_point is None or re.search(
        rf"^[ \t]*(?:async )?def {entry_point}\b|^{entry_point} *=", code, re.MULTILINE
    ):
        return code if entry_point is not None or not starter_code else f"{starter_code}\n{code}"
    before = starter_code or prompt
    return before + (completion if fenced is None and not starter_code else code)


def last_fenced(text: str) -> str | None:
    """Return the last block between code fences, also one that is not closed; None without a fence."""
    pieces = text.split(FENCE)
    if len(pieces) < 2:
        return None
    block = pieces[-2] if len(pieces) % 2 else pieces[-1]
    header = HEADER_LINE.match(block)
    return block[header.end() :] if header else block.partition("\n")[2] or block


def passes(code: str, tests: Sequence[str], *, seconds: float, memory_mb: int) -> bool:
    """Return whether a program and its tests run to their end within the limits.

    Success is a random word that the program's process sends back at the end, over a pipe of its own: output and exit code
    say nothing.
    """
    word = secrets.token_hex(16)
    order = json.dumps({"code": code, "tests": list(tests), "word": word, "seconds": seconds, "memory_mb": memory_mb})
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="unit_tests_") as folder, open(reading, "rb") as report:
        with open(writing, "wb", buffering=0):
            process = subprocess.Popen(
                [sys.executable, "-I", str(PROGRAM), str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=ENVIRONMENT,
                pass_fds=[writing],
            )
        try:
            process.communicate(order.encode(), timeout=seconds + 1)
        except subprocess.TimeoutExpired:
            return False
        except BrokenPipeError:
            pass
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
        os.set_blocking(reading, False)  # a child that escaped may hold the other end open
        return (report.read(SUCCESS_BYTES) or b"") == word.encode()
