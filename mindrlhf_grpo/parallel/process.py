"""This process: its peak memory and the packages it runs on."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def peak_host_memory() -> dict[str, float]:
    """Peak host memory of this process so far, in MB, as ``peak_rss_mb``."""
    unit = 1024 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes there, in kB elsewhere
    return {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / unit}


def package_versions(packages: Sequence[str], *, device: str) -> dict[str, str]:
    """Versions of Python and of packages (``absent`` where one is not installed), and the name of the device."""
    versions = {"python": platform.python_version(), "device": device}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
