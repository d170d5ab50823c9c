"""Reads a reward function's answer strictly into rows, so that a wrong answer is found where it arises.

There is one row per sample: a number, NaN (not applicable), K segment values, or a Failure with its reason. Rows hold
plain Python values only, so they travel between processes. Of the values that a function returns, None alone means "not
applicable"; NaN is a number that could not be computed, and fails its sample as an infinite one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import numpy as np

from ..user_functions import describe


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a sample has no reward."""

    reason: str


Row: TypeAlias = "float | tuple[float, ...] | Failure"  # NaN: not applicable; a tuple has one value per segment
Rows: TypeAlias = dict[str, list[Row]]  # by name of the sub-component; "" for a function with only one


class WrongResult(Exception):
    """The answer cannot be matched to the samples: every sample of the call fails."""


def read_result(result: object, count: int) -> Rows:
    """Return the answer of a reward function for ``count`` samples as rows.

    Of a pair (rewards, parsed answers) the first counts.

    Raises:
        WrongResult: not a list, array or dict of them, or not one entry per sample.
    """
    if not isinstance(result, Mapping):
        return {"": _entries(result[0] if _is_pair(result, count) else result, count, "it")}
    if not result:
        raise WrongResult("it returned an empty dict")
    return {str(name): _entries(values, count, f"component {str(name)!r}") for name, values in result.items()}


def concat_rows(parts: Sequence[tuple[int, Rows | Failure]]) -> Rows:
    """Join the rows of consecutive calls; each is (number of samples, its rows or the reason why it has none).

    A sub-component that only some calls returned is not applicable (NaN) in the others.
    """
    returned = dict.fromkeys(name for _, rows in parts if not isinstance(rows, Failure) for name in rows)
    names = list(returned) or [""]
    joined: Rows = {name: [] for name in names}
    for count, rows in parts:
        for name in names:
            missing: Row = rows if isinstance(rows, Failure) else math.nan
            joined[name] += [missing] * count if isinstance(rows, Failure) else rows.get(name, [missing] * count)
    return {name: _same_width(values) for name, values in joined.items()}


def _is_pair(result: object, count: int) -> TypeGuard[tuple[object, list[object]]]:
    """Return whether a result is (rewards, parsed answers) and not a tuple of the rows of two samples."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], list):
        return False
    answers = result[1]
    return len(answers) == count and (count != 2 or any(isinstance(answer, str) for answer in answers))


def _entries(values: object, count: int, what: str) -> list[Row]:
    values = _plain(values)
    if not isinstance(values, (list, tuple)):
        raise WrongResult(f"{what} is a {type(values).__name__}, not a list or an array with one entry for each sample")
    if len(values) != count:
        raise WrongResult(f"{what} has {len(values)} entries for {count} samples")
    return _same_width([_row(value) for value in values])


def _row(value: object) -> Row:
    if isinstance(value, Exception):
        return Failure(describe(value))
    value = _plain(value)
    if not isinstance(value, (list, tuple)):
        return _number(value)
    cells = [_number(_plain(cell)) for cell in value]
    failed = [cell for cell in cells if isinstance(cell, Failure)]
    if failed or not cells:
        return failed[0] if failed else Failure("an empty list of segment values")
    return tuple(cell for cell in cells if not isinstance(cell, Failure))


def _plain(values: object) -> object:
    """Return an array or tensor as Python numbers or lists of them, masked entries as None, anything else as it is.

    NumPy cannot read a tensor of bfloat16, with a gradient or on a device: its framework's backend reads it, in float32.
    """
    if not hasattr(values, "__array__"):
        return values
    if isinstance(values, np.ma.MaskedArray):
        entries: object = values.tolist()  # type: ignore[no-untyped-call]  # NumPy has not typed it
        return entries
    try:
        return np.asarray(values).tolist()
    except Exception:
        from ..backend import backend_of_type  # a framework that made the values is imported already

        framework = backend_of_type(type(values))
        if framework is None:
            raise
        return framework.to_numpy(values).tolist()


def _number(value: object) -> float | Failure:
    if value is None:
        return math.nan
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        return Failure(f"a value of type {type(value).__name__}, not a number")
    try:
        number = float(value)
    except Exception as error:
        return Failure(f"a value that is not a number: {describe(error)}")
    if not math.isfinite(number):
        hint = "; None means that the reward does not apply" if math.isnan(number) else ""
        return Failure(f"the value {number}, which is not finite{hint}")
    return number


def _same_width(rows: list[Row]) -> list[Row]:
    """Turn rows into failures whose number of segments differs from that of the first row with any."""
    width = next((len(row) for row in rows if isinstance(row, tuple)), 1)
    return [row if _fits(row, width) else Failure(_misfit(row, width)) for row in rows]


def _fits(row: Row, width: int) -> bool:
    if isinstance(row, float):
        return width == 1 or math.isnan(row)
    return isinstance(row, Failure) or len(row) == width


def _misfit(row: Row, width: int) -> str:
    got = f"{len(row)} segment values" if isinstance(row, tuple) else "one value"
    return f"{got} where another sample has {width} segment values"
