"""This machine as ``doctor`` sees it: packages, memory, devices. No framework is imported into this process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import __version__
from ..backend import FRAMEWORKS, available_backends

PACKAGES = (
    "numpy", "pydantic", "tokenizers", "transformers", "safetensors", "datasets", "math-verify", "torch", "peft",
    "torch-npu", "mindspore", "vllm", "wandb", "tensorboard", "reasoning-gym",
)  # fmt: skip
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
PROBE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendState:
    """What a backend can do here.

    Attributes:
        usable: whether a run can use it.
        text: what it is, or what is missing and how to get it.
        devices: what it computes on: ``device``, ``name``, for accelerators ``free`` and ``total`` bytes, and
            ``dtypes`` where not every one works.
        warning: something that works but should be mended.
        absent: kind of device -> why it is not among ``devices``, and the remedy.
        kernels: operation -> which implementation serves it, where the backend has a choice.
    """

    name: str
    usable: bool
    text: str
    devices: list[dict[str, Any]]
    warning: str = ""
    absent: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)


def versions() -> dict[str, str | None]:
    """Package -> version; None where it is not installed."""
    return {"mindrlhf-grpo": __version__, "python": platform.python_version(), **{p: installed(p) for p in PACKAGES}}


def installed(package: str) -> str | None:
    """The version of an installed package, from its metadata."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def host_memory() -> tuple[int, int]:
    """(available, total) bytes of main memory, within the limit of the container."""
    import psutil

    state = psutil.virtual_memory()
    available, total = int(state.available), int(state.total)
    for name in CGROUP_LIMITS:
        path = Path(name)
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return min(available, total), total


def processors() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend_states() -> list[BackendState]:
    """Every known backend."""
    return [backend_state(name, module) for name, module in sorted(available_backends().items())]


def backend_state(name: str, module: str) -> BackendState:
    """One backend: is it there, is its framework, and which devices does that find."""
    framework = FRAMEWORKS.get(name)
    warning = numpy_warning() if name == "mindspore" and framework and installed(framework) else ""
    if find_spec(module) is None:
        return BackendState(name=name, usable=False, text="not part of this installation", devices=[], warning=warning)
    if framework and find_spec(framework) is None:
        text = f"{framework} is missing: pip install 'mindrlhf-grpo[{name}]'"
        return BackendState(name=name, usable=False, text=text, devices=[], warning=warning)
    if find_spec(f"{module}.devices") is None:
        return BackendState(name=name, usable=True, text=f"installed ({module})", devices=[], warning=warning)
    found = probe(f"{module}.devices")
    if isinstance(found, str):
        return BackendState(name=name, usable=False, text=found, devices=[], warning=warning)
    return BackendState(
        name=name, usable=True, text=found["framework"], devices=found["devices"], warning=warning,
        absent=found.get("absent", {}), kernels=found.get("kernels", {}),
    )  # fmt: skip


def probe(module: str) -> dict[str, Any] | str:
    """Run a backend's device listing in a process of its own: its JSON, or what went wrong."""
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"does not answer: {module} took more than {PROBE_SECONDS} s"
    last = next(reversed((done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()), "")
    try:
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(last)
            return found
    except ValueError:
        pass
    return f"broken: {last or f'exit code {done.returncode}'}"


def numpy_warning() -> str:
    """MindSpore 2.10 fails in its first operation with NumPy 2."""
    found = installed("numpy") or ""
    return f"mindspore 2.10 needs numpy < 2, here is {found}: pip install 'numpy<2'" if found.startswith("2") else ""
