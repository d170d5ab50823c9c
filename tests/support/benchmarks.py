"""The benchmarks' files as modules: they are programs that import each other by their bare names."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests.support.repository import ROOT


def benchmark(name: str) -> ModuleType:
    """``benchmarks/NAME.py``, loaded once under its bare name; what it imports of its neighbours comes first."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
