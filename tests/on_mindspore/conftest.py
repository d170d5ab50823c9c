"""MindSpore in tests: errors appear where they are made, not at a later operation."""

from __future__ import annotations

import pytest

ms = pytest.importorskip("mindspore")


@pytest.fixture(scope="session", autouse=True)
def blocking() -> None:
    ms.set_device("CPU")
    ms.runtime.launch_blocking()
