"""Modules under MindRLHF's and MindFormers' names, for scripts that import from them.

Their scripts begin with some twenty different ``from mindrlhf...`` lines, and files at all these paths would have to be a
top-level package ``mindrlhf`` that hides an installed one. Instead a finder on ``sys.meta_path`` makes a module when it is
imported and fills it from the table ``imports`` of ``keys.yaml``; nothing else of the import system is touched.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class NameFinder(MetaPathFinder, Loader):
    """Finds the modules of a table and fills them.

    Args:
        table: module -> the names it has, as ``module.name`` under ``home``.
    """

    def __init__(self, table: Mapping[str, Sequence[str]], home: str) -> None:
        self.table, self.home = table, home

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for a module of the table or a package above one, else None."""
        if not any(module == name or module.startswith(f"{name}.") for module in self.table):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to create an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the table's names into the module."""
        for place in self.table.get(module.__name__, ()):
            where, _, name = place.rpartition(".")
            setattr(module, name, getattr(importlib.import_module(f"{self.home}.{where}"), name))


def install(table: Mapping[str, Sequence[str]], home: str, *, first: bool = False) -> None:
    """Make the modules of a table importable, before installed ones or (by default) after them; once per ``home``."""
    if not any(isinstance(finder, NameFinder) and finder.home == home for finder in sys.meta_path):
        sys.meta_path.insert(0 if first else len(sys.meta_path), NameFinder(table, home))
