"""The device that MindSpore computes on, and those it finds here.

``mindrlhf-grpo doctor`` lists them in a process of its own, so that a broken driver does not take doctor along.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import mindspore as ms
from mindspore.device_context import ascend

from mindrlhf_grpo.backend import DeviceEntry, DeviceListing
from mindrlhf_grpo.errors import BackendError

from .checks import check_dtype
from .ops import choose_kernels

DTYPES = {"cpu": ["float32"], "npu": ["float32", "bfloat16"]}


@dataclass(frozen=True, slots=True)
class Device:
    """The device of this process: ``kind`` is cpu or npu."""

    kind: str
    index: int = 0

    @property
    def target(self) -> str:
        """Its name in MindSpore."""
        return "Ascend" if self.kind == "npu" else "CPU"

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"


def select(name: str, dtype: str, index: int) -> Device:
    """Make the device that a configuration names (auto, cpu, npu) the one of this process.

    Raises:
        BackendError: Ascend is not usable here, or does not take ``dtype``.
    """
    if name == "npu" and not ascend_is_usable():
        raise BackendError(f"model.device 'npu': {why_no_ascend()}")
    device = Device("npu", index) if name != "cpu" and ascend_is_usable() else Device("cpu")
    check_dtype(dtype, device.kind)
    if device.kind == "npu":
        ms.set_device("Ascend", index)
    else:
        ms.set_device("CPU")
    return device


def ascend_is_usable() -> bool:
    """Return True if MindSpore found CANN, and CANN a device."""
    return bool(ascend.is_available()) and ascend.device_count() > 0


def why_no_ascend() -> str:
    """Name what Ascend lacks here, and the remedy."""
    if ascend.is_available():
        return "CANN finds no Ascend device; `npu-smi info` must list one (driver, ASCEND_RT_VISIBLE_DEVICES)"
    return (
        "MindSpore does not find CANN; install a version that docs/mindspore.md names and `source` its set_env.sh in "
        "this shell, or set model.device=cpu"
    )


def devices() -> DeviceListing:
    """Version of MindSpore, devices with memory in bytes and dtypes, why Ascend is absent, kernels by operation."""
    npus = [npu(index) for index in range(ascend.device_count())] if ascend_is_usable() else []
    kernels = choose_kernels("npu", "bfloat16") if npus else choose_kernels("cpu", "float32")
    absent = {} if npus else {"npu": why_no_ascend()}
    listed = [*npus, cpu()]
    return {"framework": f"mindspore {ms.__version__}", "devices": listed, "absent": absent, "kernels": kernels}


def npu(index: int) -> DeviceEntry:
    """Name, free and total memory of one Ascend device."""
    ms.set_device("Ascend", index)
    properties = ms.hal.get_device_properties(index, "Ascend")
    return {
        "device": f"npu:{index}",
        "name": properties.name,
        "free": properties.free_memory,
        "total": properties.total_memory,
        "bfloat16": True,
        "dtypes": DTYPES["npu"],
    }


def cpu() -> DeviceEntry:
    """The processor as MindSpore uses it."""
    return {"device": "cpu", "name": platform.machine(), "bfloat16": False, "dtypes": DTYPES["cpu"]}
