"""The devices that PyTorch can compute on here.

``mindrlhf-grpo doctor`` lists them in a process of its own, so that a broken driver does not take doctor along.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from mindrlhf_grpo.backend import DeviceEntry, DeviceListing

from .models.hf import import_npu

BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # what /proc/cpuinfo calls it on x86 and Arm


def devices() -> DeviceListing:
    """Version of torch, accelerators with memory in bytes, and whether each computes bfloat16 in hardware."""
    import_npu()
    accelerators = [accelerator(index) for index in range(torch.accelerator.device_count())] if available() else []
    return {"framework": f"torch {torch.__version__}", "devices": [*accelerators, cpu()]}


def available() -> bool:
    return torch.accelerator.is_available()


def accelerator(index: int) -> DeviceEntry:
    """Name, free and total memory of one accelerator."""
    current = torch.accelerator.current_accelerator()
    kind = current.type if current is not None else "none"
    module: Any = getattr(torch, kind, None)  # torch.cuda, torch.npu, ...
    free, total = module.mem_get_info(index) if hasattr(module, "mem_get_info") else (0, 0)
    name = module.get_device_name(index) if hasattr(module, "get_device_name") else kind
    bfloat16 = bool(module.is_bf16_supported()) if hasattr(module, "is_bf16_supported") else True
    return {"device": f"{kind}:{index}", "name": name, "free": free, "total": total, "bfloat16": bfloat16}


def cpu() -> DeviceEntry:
    """The processor as torch uses it."""
    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return {"device": "cpu", "name": name, "bfloat16": any(flag in cpu_flags() for flag in BFLOAT16_FLAGS)}


def cpu_flags() -> set[str]:
    """Instruction sets of the processor, by the names of /proc/cpuinfo; empty where there is no such file."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
