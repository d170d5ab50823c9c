"""MindSpore in tests: errors appear where they are made, not at a later operation. Without it the folder is skipped."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = find_spec("mindspore") is not None


class Skipped(pytest.Module):
    """A file of tests that is not imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("MindSpore is not installed (there is none for Python 3.13 and later)", allow_module_level=True)


if HERE:

    @pytest.fixture(scope="session", autouse=True)
    def blocking() -> None:
        import mindspore as ms

        ms.set_device("CPU")
        ms.runtime.launch_blocking()

else:

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped:
        return Skipped.from_parent(parent, path=module_path)
