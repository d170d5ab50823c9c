"""Errors of missing memory and of full disks, as the libraries raise them."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.errors import DiskFull, OutOfMemory
from mindrlhf_grpo.run.clock import Clock
from mindrlhf_grpo.run.shortages import as_size, shortage


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which the core does not import."""


class SafetensorError(Exception):
    """Named like safetensors' own."""


MINDSPORE = (  # as printed by MindSpore 2.10 in graph mode
    "\n----------------------------------------------------\n- Memory not enough:\n"
    "----------------------------------------------------\nMemory isn't enough and alloc failed, kernel name: "
    "1_Expand/_MatMulExt/MatMul-op0, alloc size: 16000000000000B.\n\n- C++ Call Stack: (For framework developers)\n"
)
CPU = (  # torch 2.13
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.14 GiB of which 1.2 GiB is free."
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OutOfMemoryError(CUDA), "2.5 GiB could not be had"),
        (RuntimeError(CPU), "3,725,290.3 GiB could not be had"),
        (RuntimeError(MINDSPORE), "14,901.2 GiB could not be had"),
        (RuntimeError("Allocate memory failed\n\n- C++ Call Stack"), "Allocate memory failed"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
    ],
)
def test_memory_is_told_with_its_phase_and_what_was_asked_for(error: Exception, text: str) -> None:
    """Finding torch.md 5 (out of memory), issue part 6: whatever library noticed it, it is a failed run, not a bug."""
    told = shortage(error, "update")
    assert isinstance(told, OutOfMemory)
    assert (str(told), told.phase, told.exit_code) == (f"out of memory in the phase update: {text}", "update", 3)


def test_numpys_own_error_is_one() -> None:
    with pytest.raises(MemoryError) as raised:
        np.empty(10**15)
    told = shortage(raised.value)
    assert str(told) == "out of memory: 7,455,375.4 GiB could not be had"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_with_its_phase(error: Exception) -> None:
    """Finding newcomer P3.7 (disk full was called a bug)."""
    told = shortage(error, "save")
    assert isinstance(told, DiskFull)
    assert str(told).startswith("no space to write a file in the phase save: ")
    assert told.exit_code == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(errno.ENOENT, "gone"), KeyError("a")]
)
def test_other_errors_are_none(error: Exception) -> None:
    assert shortage(error) is None


def test_the_clock_names_the_phase() -> None:
    clock = Clock(CompileLog())
    with pytest.raises(OutOfMemory, match="in the phase generate"), clock.phase("generate"):
        raise MemoryError
    with pytest.raises(OutOfMemory, match="in the phase logps"), clock.phase("update"), clock.phase("logps"):
        raise MemoryError
    with pytest.raises(ZeroDivisionError), clock.phase("update"):
        raise ZeroDivisionError


def test_sizes_are_for_people() -> None:
    assert [as_size(count) for count in (100, 12 * 2**10, 3 * 2**20, 1536 * 2**20)] == [
        "0 KiB", "12 KiB", "3.0 MiB", "1.5 GiB",
    ]  # fmt: skip
