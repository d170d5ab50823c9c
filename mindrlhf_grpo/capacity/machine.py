"""This machine as ``doctor`` sees it: packages, memory, devices. No framework is imported into this process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..backend import available_backends, backend_module
from ..errors import BackendError

PACKAGES = (
    "numpy", "pydantic", "tokenizers", "transformers", "safetensors", "datasets", "math-verify", "torch", "peft",
    "torch-npu", "mindspore", "vllm", "wandb", "tensorboard", "reasoning-gym",
)  # fmt: skip
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
PROBE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendState:
    """The state of one backend on this machine.

    Attributes:
        usable: whether a run can use it.
        text: its version, or what is missing and how to get it.
        devices: the devices it computes on: ``device``, ``name``, for accelerators ``free`` and ``total`` bytes, and
            ``dtypes`` where not every one works.
        warning: a problem that does not stop a run.
        absent: kind of device -> why it is not among ``devices``, and the remedy.
        kernels: operation -> the implementation that serves it, where the backend has a choice.
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
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend_states() -> list[BackendState]:
    """The state of every known backend; their frameworks are asked at the same time, which is mostly import."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(backend_state, sorted(available_backends())))


def backend_state(name: str) -> BackendState:
    """Examine one backend: whether it and its framework are installed, and which devices it finds."""
    try:
        module = backend_module(name)
    except BackendError as error:
        return BackendState(name=name, usable=False, text=str(error), devices=[])
    warning = module.environment_warning()
    listing = probe(available_backends()[name])
    if isinstance(listing, str):
        return BackendState(name=name, usable=False, text=listing, devices=[], warning=warning)
    return BackendState(
        name=name, usable=True, text=listing["framework"], devices=listing["devices"], warning=warning,
        absent=listing.get("absent", {}), kernels=listing.get("kernels", {}),
    )  # fmt: skip


def probe(module: str) -> dict[str, Any] | str:
    """Run a backend's device listing in a separate process; return its JSON, or the error as text."""
    command = [sys.executable, "-m", "mindrlhf_grpo.capacity.device_listing", module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"does not answer: {module} took more than {PROBE_SECONDS} s"
    last = next(reversed((done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()), "")
    try:
        if done.returncode == 0:
            listing: dict[str, Any] = json.loads(last)
            return listing
    except ValueError:
        pass
    return f"broken: {last or f'exit code {done.returncode}'}"
