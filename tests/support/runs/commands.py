"""Commands of the program in this process: starting another takes several seconds, most of it imports."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import NamedTuple
from unittest.mock import patch

from mindrlhf_grpo.capacity import machine
from mindrlhf_grpo.cli.main import main

# Of a backend: ``doctor`` asks a process of its own, which imports the framework; here once.
PROBED = cache(machine.probe)


class Finished(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Finished:
    """Run ``mindrlhf-grpo ARGUMENTS`` to its end."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(machine, "probe", PROBED):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Finished(code, out.getvalue(), err.getvalue())
