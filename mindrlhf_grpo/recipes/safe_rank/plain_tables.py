"""Tables in files: JSON, or pickles that hold plain values only. Nothing in a pickle is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from ...errors import DataError

CONTAINERS: dict[tuple[str, str], type] = {("builtins", "set"): set, ("builtins", "frozenset"): frozenset}


class PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function; containers, texts and numbers need none."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in CONTAINERS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return CONTAINERS[module, name]


def read_table(path: Path) -> Any:
    """What a JSON file, or a pickle (``.pkl``) of plain values, holds.

    Raises:
        DataError: no such file, a broken one, or a pickle with objects.
    """
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}; accepted: .json, or .pkl with plain values")
    if path.suffix not in (".pkl", ".pickle"):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
    try:
        with path.open("rb") as file:
            return PlainUnpickler(file).load()
    except Exception as error:  # a broken pickle raises almost anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be read: {reason}; accepted: plain values only, better as JSON") from error
