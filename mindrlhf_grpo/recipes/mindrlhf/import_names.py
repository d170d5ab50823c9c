"""Modules that do not exist, for scripts that import from them: a table says which names each has, and where they are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class Names(MetaPathFinder, Loader):
    """Finds the modules of a table and fills them.

    Args:
        table: module -> what it has, as ``module.name`` under ``home``.
    """

    def __init__(self, table: Mapping[str, Sequence[str]], home: str) -> None:
        self.table, self.home = table, home

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A module of the table, or a package above one."""
        if not any(module == name or module.startswith(f"{name}.") for module in self.table):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> None:
        """Python's own."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the names in."""
        for place in self.table.get(module.__name__, ()):
            where, _, name = place.rpartition(".")
            setattr(module, name, getattr(importlib.import_module(f"{self.home}.{where}"), name))


def install(table: Mapping[str, Sequence[str]], home: str, *, first: bool = False) -> None:
    """Make the modules of a table importable: after what is installed, or before it. Once for a home."""
    if not any(isinstance(finder, Names) and finder.home == home for finder in sys.meta_path):
        sys.meta_path.insert(0 if first else len(sys.meta_path), Names(table, home))
