"""The user's own Python functions, written ``pkg.module:function`` or ``path/file.py:function``.

Modules are looked for in the current folder too. A file is imported once in a process, whoever names it, and may
import its neighbours.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from .errors import RunFailed, UserError, did_you_mean, did_you_mean_file


def import_object(reference: str) -> Any:
    """Import the thing that a reference names.

    Raises:
        UserError: no such file, module or name, with the nearest there is, or an exception while importing it.
    """
    place, _, name = reference.rpartition(":")
    module = _import(place)
    thing = getattr(module, name, None)
    if thing is None:
        names = [key for key, value in vars(module).items() if inspect.isroutine(value) and key[0] != "_"]
        raise UserError(
            f"{place} has no function {name!r}{did_you_mean(name, names)}; functions there: {', '.join(names) or 'none'}"
        )
    return thing


def import_function(reference: str) -> Callable[..., Any]:
    """Import the function that a reference names; a class or anything else that can be called will do.

    Raises:
        UserError: as :func:`import_object`, or something that cannot be called.
    """
    function = import_object(reference)
    if not callable(function):
        place, _, name = reference.rpartition(":")
        raise UserError(f"{place}: {name!r} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def named_function(reference: str) -> Callable[..., Any]:
    """Import a function that reports what it raises when it is called as a UserError with its place."""
    function = import_function(reference)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            raise UserError(f"{reference} failed: {describe(error, file_of(function))}") from error

    return call


@contextmanager
def stopping_the_run(what: str, file: str = "") -> Iterator[None]:
    """Turn an exception of code that holds a model into one that ends the run and names the user's line.

    Such code fails for a whole batch, not for a sample: nothing could be learned from what is left.

    Args:
        what: the beginning of the message.
        file: the user's file, see :func:`describe`.

    Raises:
        RunFailed: for any exception but a UserError and an interrupt.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a class that calls sys.exit would end the run with its own code
        raise RunFailed(f"{what} failed: {describe(error, file)}") from error


def absolute(reference: str) -> str:
    """Return the reference with a file's path made absolute, so that another process finds it too."""
    place, _, name = reference.rpartition(":")
    return f"{_path(place)}:{name}" if place.endswith(".py") else reference


def describe(error: BaseException, file: str = "") -> str:
    """Type, text (cut at 200 characters) and innermost line of an exception in the user's code.

    Args:
        file: the user's file; the innermost line in it is named, where there is one.
    """
    try:
        text = str(error)[:200]
    except Exception:
        text = "(its text cannot be made)"
    frames = [(trace.tb_frame.f_code.co_filename, trace.tb_lineno) for trace in _traces(error)]
    frames = [frame for frame in frames if frame[0] == file] or frames[-1:]
    if not frames or frames[-1][0].startswith("<frozen"):  # Python's own
        return f"{type(error).__name__}: {text}"
    return f"{type(error).__name__}: {text} ({frames[-1][0]}:{frames[-1][1]})"


def _traces(error: BaseException) -> Iterator[TracebackType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def file_of(thing: Any) -> str:
    """The file that a function or class was written in; empty where none is known."""
    try:
        return inspect.getsourcefile(inspect.unwrap(thing)) or ""
    except TypeError:
        return ""


def line_of(thing: Any) -> str:
    """``file:line`` where a function or class begins; empty where no source is known."""
    try:
        return f"{file_of(thing)}:{inspect.getsourcelines(inspect.unwrap(thing))[1]}"
    except (OSError, TypeError):
        return file_of(thing)


def _import(place: str) -> ModuleType:
    is_file = place.endswith(".py")
    if is_file and not os.path.isfile(os.path.expanduser(place)):
        raise UserError(f"there is no file {place}{did_you_mean_file(Path(place), '*.py')}")
    try:
        return _file_module(_path(place)) if is_file else _named_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise UserError(
                f"there is no module {error.name!r} on the import path; a file is written path/file.py:function"
            ) from error
        raise UserError(f"{place} cannot be imported: {describe(error)}") from error


def _path(place: str) -> Path:
    return Path(os.path.expanduser(place)).resolve()


def _file_module(path: Path) -> ModuleType:
    name = f"mindrlhf_grpo_file_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, annotations and pickling look a class's module up here
    _search_in(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _named_module(name: str) -> ModuleType:
    _search_in(os.getcwd())  # a console script, unlike python -m, does not look there
    return importlib.import_module(name)


def _search_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)
