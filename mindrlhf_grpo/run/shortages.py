"""Shortages of memory and of disk space, recognised whatever raised them.

NumPy, torch and MindSpore have an error of their own for memory, and safetensors one for files; several are told apart
by their text only. The core imports none of them.
"""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from ..errors import DiskFull, OutOfMemory

# torch on a processor: "DefaultCPUAllocator: can't allocate memory"; MindSpore: "memory isn't enough", "Memory not
# enough", "Allocate memory failed", "Alloc device mem failed"; C++: "std::bad_alloc".
MEMORY = re.compile(
    r"out of memory|mem(ory)? (isn't|is not|not) enough|alloc(ate)?\b.{0,20} mem(ory)? failed|can(no|')t allocate memory"
    r"|bad_alloc",
    re.IGNORECASE,
)
ASKED = re.compile(r"\b(?:allocate|alloc size:?) (\d[\d.]*) ?(bytes|B|[KMGTP]i?B)\b")
SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, a quota, a limit on the size of one file
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # the end of safetensors' text
LONGEST = 200  # characters of a library's text
GIB, MIB, KIB = 2**30, 2**20, 2**10


def shortage(error: BaseException, phase: str = "") -> OutOfMemory | DiskFull | None:
    """The shortage that an error is about, in the user's words; None for any other error.

    Args:
        phase: the phase of a step in which it was raised; empty outside of steps.
    """
    if isinstance(error, OutOfMemory | DiskFull):
        return error
    during = f" in the phase {phase}" if phase else ""
    if is_out_of_memory(error):
        return OutOfMemory(f"out of memory{during}: {asked_for(error)}", phase=phase)
    if is_disk_full(error):
        return DiskFull(f"no space to write a file{during}: {first_sentence(error)}")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for every library's error of missing memory, on the host or a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and MEMORY.search(str(error)) is not None


def is_disk_full(error: BaseException) -> bool:
    """True for an error of a file that could not be written because of space, a quota or a limit on its size."""
    return os_error(error) in SPACE


def os_error(error: BaseException) -> int | None:
    """The operating system's number of an error, also of safetensors' own, which is no OSError."""
    if isinstance(error, OSError):
        return error.errno
    found = OS_ERROR.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def asked_for(error: BaseException) -> str:
    """How much memory was asked for; the beginning of the library's text where it does not say so."""
    found = ASKED.search(str(error))
    if found is None:
        return first_sentence(error)
    unit = "BKMGTP".index(found[2][0].upper())
    return f"{as_size(int(float(found[1]) * 1024**unit))} could not be had"


def first_sentence(error: BaseException) -> str:
    """The beginning of a library's text: what was asked for. Statistics and source files follow in the same text."""
    lines = [line.strip(" -\t") for line in str(error).splitlines() if line.strip(" -\t")]
    text = lines[0] if lines else type(error).__name__
    return re.split(r"\. (?=[A-Z])", text)[0].rstrip(".")[:LONGEST]


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written to the file system of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def as_size(count: int) -> str:
    """Bytes for people: ``1.5 GiB``, ``3.0 MiB``, ``12 KiB``."""
    if count >= GIB:
        return f"{count / GIB:,.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count / KIB:.0f} KiB"
