"""Scripts that were written for another program: run here, with modules under that program's names.

Such scripts begin with some twenty different ``from program...`` lines, and files at all these paths would have to be a
top-level package that hides an installed one. Instead a finder on ``sys.meta_path`` makes a module when it is imported and
fills it from a table; nothing else of the import system is touched.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError, UserError, did_you_mean, did_you_mean_file
from ..user_functions import describe


class MissingName(ConfigError, ImportError):
    """A script imports a name of the other program that has no counterpart here."""


class NameFinder(MetaPathFinder, Loader):
    """Finds the modules of a table and fills them.

    Args:
        table: module -> the names it has, as ``module.name`` under ``home``.
    """

    def __init__(self, table: Mapping[str, Sequence[str]], home: str) -> None:
        self.table, self.home = table, home
        self.programs = {module.partition(".")[0] for module in table}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for a module of the table or a package above one, None for another program's.

        Raises:
            MissingName: a module or name of the program that the table lacks. Every module is a package, so Python asks
                for a name that a module does not have as for a module in it.
        """
        if any(module == name or module.startswith(f"{name}.") for module in self.table):
            return ModuleSpec(name, self, is_package=True)
        module, _, missing = name.rpartition(".")
        if not module or name.partition(".")[0] not in self.programs:
            return None
        there = [entry.rpartition(".")[2] for entry in self.table.get(module, ())]
        modules = {other[len(module) + 1 :].partition(".")[0] for other in self.table if other.startswith(f"{module}.")}
        known = sorted({*there, *modules})
        raise MissingName(
            f"{module} has no {missing} here{did_you_mean(missing, known)}; it has {', '.join(known) or 'nothing'}: what "
            "scripts call is there, internals are not"
        )

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to create an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the table's names into the module."""
        for place in self.table.get(module.__name__, ()):
            where, _, name = place.rpartition(".")
            setattr(module, name, getattr(importlib.import_module(f"{self.home}.{where}"), name))


def run_script(script: Path, arguments: Sequence[str], table: Mapping[str, Sequence[str]], home: str) -> None:
    """Run a script as the main program, with the modules of a table before installed ones of their names.

    Raises:
        ConfigError: there is no such script, or it imports what the table lacks.
        UserError: the script raises; its text names the line.
    """
    if not script.is_file():
        raise ConfigError(f"there is no script {script}{did_you_mean_file(script, '*.py')}")
    if not any(isinstance(finder, NameFinder) and finder.home == home for finder in sys.meta_path):
        sys.meta_path.insert(0, NameFinder(table, home))
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except MissingName as error:
        raise ConfigError(describe(error, str(script)).removeprefix(f"{MissingName.__name__}: ")) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{script} failed: {describe(error, str(script))}") from error
