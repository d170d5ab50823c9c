"""Commands of the program in this process: starting another takes several seconds, most of it imports."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from mindrlhf_grpo.cli.main import main


class Finished(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Finished:
    """Run ``mindrlhf-grpo ARGUMENTS`` to its end."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Finished(code, out.getvalue(), err.getvalue())
