"""Rows from a user's Python function: ``pkg.module:function`` or ``path/file.py:function``."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import DataError
from .rows import BadRow, IndexedRows, Rows, unknown


def read_function(name: str, arguments: Mapping[str, Any]) -> Rows:
    """Rows that a function returns: an iterable of dicts, read to its end once.

    Raises:
        DataError: no such file, module or function, arguments it does not take, or an exception inside it.
    """
    function = import_function(name)
    _check_arguments(name, function, arguments)
    try:
        returned = function(**arguments)
        if not isinstance(returned, Iterable) or isinstance(returned, (str, bytes, Mapping)):
            raise DataError(f"{name} returned {type(returned).__name__}, not an iterable of dicts")
        items = list(returned)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # user code
        raise DataError(f"{name} failed: {type(error).__name__}: {error}") from error
    bad = {
        i: BadRow(f"{name}[{i}]", f"not a dict but {type(item).__name__}")
        for i, item in enumerate(items)
        if not isinstance(item, Mapping)
    }
    return IndexedRows(name=name, size=len(items), read=lambda index: dict(items[index]), bad=bad)


def import_function(name: str) -> Callable[..., Any]:
    """The function of ``pkg.module:function`` or ``path/file.py:function``.

    Raises:
        DataError: no such file, module or function, or an exception while importing it.
    """
    where, _, attribute = name.rpartition(":")
    module = _import_file(name, Path(where)) if where.endswith(".py") else _import_module(name, where)
    function = getattr(module, attribute, None)
    if function is None:
        raise unknown(
            f"{where}: function",
            attribute,
            (key for key, value in vars(module).items() if callable(value) and key[0] != "_"),
        )
    if not callable(function):
        raise DataError(f"{name} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def _import_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        siblings = [str(other) for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), siblings, n=1)
        raise DataError(f"{name}: no file {path}" + (f" (did you mean {near[0]}?)" if near else ""))
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    alias = f"_user_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(alias, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module  # dataclasses and annotations look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code
        del sys.modules[alias]
        raise DataError(f"{name}: importing {path} failed: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise DataError(
                f"{name}: no module {error.name!r} on the import path; a file is given as path/file.py:function"
            ) from error
        raise DataError(f"{name}: importing {module} failed: {error}") from error
    except (Exception, SystemExit) as error:  # user code
        raise DataError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error


def _check_arguments(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-ins have none
        return
    parameters = signature.parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for argument in arguments:
            if argument not in accepted:
                raise unknown(f"{name}: argument", argument, accepted)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise DataError(f"{name}: {error}") from error
