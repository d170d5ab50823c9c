"""Errors a user can cause. The command line prints their text and exits with their code, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

CUTOFF = 0.5  # of difflib's similarity: no hint is better than one that is far off


class UserError(Exception):
    """A mistake that the user can correct: the text names the value, the place and what is accepted."""

    exit_code = 2


class ConfigError(UserError):
    """A wrong key, value or file in the configuration."""


class DataError(UserError):
    """A row, file or column of the data that cannot be used."""


class BackendError(UserError):
    """A backend that is absent, or that cannot do what the configuration asks."""


class CheckpointError(UserError):
    """A checkpoint that is incomplete, corrupt or made by another configuration."""


class BundleError(UserError):
    """A parity bundle that is incomplete, corrupt or of another version."""


class RunFailed(UserError):
    """The run stopped itself: NaN, a fingerprint or ratio outside tolerance. The text names the saved evidence."""

    exit_code = 3


class OutOfMemory(RunFailed):
    """Memory, of the host or of a device, did not suffice.

    Attributes:
        phase: the phase of a step in which it ran out; empty before the first step.
    """

    def __init__(self, text: str, *, phase: str = "") -> None:
        super().__init__(text)
        self.phase = phase


class DiskFull(RunFailed):
    """A file could not be written: no space, or a quota. Whole files are kept, the half-written one is removed.

    Attributes:
        placed: whether the text says already how much is free where.
    """

    def __init__(self, text: str, *, placed: bool = False) -> None:
        super().__init__(text)
        self.placed = placed


class Interrupted(UserError):
    """A signal ended the command; the text says from where the same command goes on.

    Args:
        signal_number: the signal; the exit code is 128 more, as in a shell (130: SIGINT, 143: SIGTERM).
    """

    def __init__(self, text: str, signal_number: int) -> None:
        super().__init__(text)
        self.exit_code = 128 + signal_number


class ServerError(UserError):
    """A server that cannot be reached or used; finished work is kept, and the command can be run again."""

    exit_code = 4


class RequestRefused(ServerError):
    """A request that the server refuses every time; other requests may still succeed."""


def did_you_mean(unknown: str, names: Iterable[str], *, cutoff: float = CUTOFF) -> str:
    """Return `` (did you mean 'NAME'?)``, or nothing where no name is near. Swapped letters are the likeliest slip."""
    near = get_close_matches(unknown, list(names), n=3, cutoff=cutoff)
    near.sort(key=lambda name: sorted(name) != sorted(unknown))
    return f" (did you mean {near[0]!r}?)" if near else ""


def did_you_mean_file(path: Path, pattern: str = "*") -> str:
    """Return the same hint for a missing path, from the entries of its folder."""
    near = get_close_matches(path.name, [other.name for other in path.parent.glob(pattern)], n=1, cutoff=CUTOFF)
    return f" (did you mean {str(path.with_name(near[0]))!r}?)" if near else ""


def from_here(path: Path) -> str:
    """Say where a relative path that does not exist was looked for."""
    return "" if path.is_absolute() else f" (paths are relative to the working directory, {Path.cwd()})"
