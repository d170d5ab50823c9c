"""Items of a JSON file checked against a pydantic model: what fits, and where and why the rest does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ...data.rows import BadRow
from ...errors import DataError

Item = TypeVar("Item", bound=BaseModel)


def read_items(path: Path, model: type[Item]) -> list[Item | BadRow]:
    """The items of a JSON list, in order.

    Raises:
        DataError: no such file, no UTF-8, no JSON, no list, or an empty one.
    """
    try:
        items = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON in UTF-8: {error}") from None
    if not isinstance(items, list) or not items:
        raise DataError(f"{path} holds no list of items but {'an empty one' if items == [] else type(items).__name__}")
    return [check_item(item, model, f"{path}[{at}]") for at, item in enumerate(items)]


def good_items(path: Path, model: type[Item], limit: int | None = None) -> list[Item]:
    """The first ``limit`` items of a JSON list (None: all). Raises DataError for a file or an item that is none."""
    items = read_items(path, model)[:limit]
    for item in items:
        if isinstance(item, BadRow):
            raise DataError(str(item))
    return [item for item in items if not isinstance(item, BadRow)]


def check_item(item: object, model: type[Item], place: str) -> Item | BadRow:
    """The item as the model has it, or the first thing that is wrong with it."""
    try:
        return model.model_validate(item, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the item"
        got = "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
        return BadRow(place, f"{where}: {first['msg']}{got}")
