"""Rows from a user's Python function: ``pkg.module:function`` or ``path/file.py:function``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import DataError, UserError
from ..user_functions import describe, import_function
from .rows import BadRow, IndexedRows, PlacedRow, Rows, unknown


def read_function(name: str, arguments: Mapping[str, Any]) -> Rows:
    """Call a function that returns an iterable of dicts, ``PlacedRow`` or ``BadRow``, and read it to its end once.

    Raises:
        DataError: the file, module or function does not exist, does not take the arguments, or raises an exception.
    """
    try:
        function = import_function(name)
    except UserError as error:
        raise DataError(f"{name}: {error}") from error
    _check_arguments(name, function, arguments)
    try:
        returned = function(**arguments)
        if not isinstance(returned, Iterable) or isinstance(returned, (str, bytes, Mapping)):
            raise DataError(f"{name} returned {type(returned).__name__}, not an iterable of dicts")
        items = list(returned)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # user code
        raise DataError(f"{name} failed: {describe(error)}") from error
    bad = {
        i: item if isinstance(item, BadRow) else BadRow(f"{name}[{i}]", f"not a dict but {type(item).__name__}")
        for i, item in enumerate(items)
        if not isinstance(item, Mapping)
    }
    places = {i: item.place for i, item in enumerate(items) if isinstance(item, PlacedRow)}
    return IndexedRows(name=name, size=len(items), read=lambda index: dict(items[index]), bad=bad, places=places)


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
