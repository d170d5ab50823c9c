"""Comparisons with the reference implementation, each of which raises :class:`Deviates` beyond its limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parity.quantities import ROUNDING, ROUNDINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest differences that pass.

    Attributes:
        log_probs: of log-probs, entropies and losses.
        norm: norm of a difference, over the norm of the tensor.
        sums: of a metric sum, relative to the number of tokens.
        stored: of a weight that one known product gave, relative.
        tokens: whether sampled tokens must be equal. In 16 bits one rounding decides between two that lie close
            together; log-probs are compared up to the first that differs.
    """

    log_probs: float = 1e-4
    norm: float = 1e-4
    sums: float = 1e-4
    stored: float = 1e-6
    tokens: bool = True


def limits_of(dtype: str) -> Limits:
    """The limits for weights and arithmetic of a type; in 16 bits they count roundings, as parity bundles do."""
    if dtype == "float32":
        return Limits()
    several = ROUNDINGS * ROUNDING[dtype]
    return Limits(log_probs=several, norm=several, sums=several, stored=ROUNDING[dtype], tokens=False)


class Deviates(AssertionError):
    """The backend under test deviates from the NumPy model."""


def within(quantity: str, actual: Any, truth: Any, limit: float) -> None:
    """Refuse a difference above the limit, and anything that is not a number."""
    one, other = np.asarray(actual, np.float64), np.asarray(truth, np.float64)
    if one.shape != other.shape:
        raise Deviates(f"{quantity}: shape {list(one.shape)}, should be {list(other.shape)}")
    gap = np.abs(one - other)
    if gap.size and not np.nanmax(np.where(np.isnan(gap), np.inf, gap)) <= limit:
        place = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
        raise Deviates(
            f"{quantity}: {one[place]:.7g} at {[int(i) for i in place]}, should be {other[place]:.7g} within {limit:g}"
        )


def tensors_within(
    quantity: str, actual: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]], limit: float
) -> None:
    """Refuse other names, other shapes, and differences above ``limit`` times a tensor's norm."""
    if actual.keys() != truth.keys():
        raise Deviates(f"{quantity}: names differ: {', '.join(sorted(actual.keys() ^ truth.keys())[:4])}")
    for name, expected in truth.items():
        if actual[name].shape != expected.shape:
            raise Deviates(f"{quantity}: {name} is {list(actual[name].shape)}, should be {list(expected.shape)}")
        size = max(float(np.linalg.norm(expected)), 1e-12)
        gap = float(np.linalg.norm(actual[name].astype(np.float64) - expected)) / size
        if not gap <= limit:
            raise Deviates(f"{quantity}: {name} is {gap:.2e} of its norm away; accepted: {limit:g}")


def equal(quantity: str, actual: Any, truth: Any) -> None:
    """Refuse anything but equality."""
    if actual != truth:
        raise Deviates(f"{quantity}: {actual!r}, should be {truth!r}")


def identical(quantity: str, actual: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> None:
    """Refuse tensors that are not equal bit for bit."""
    equal(f"{quantity}: names", sorted(actual), sorted(truth))
    differing = [name for name, array in truth.items() if actual[name].tobytes() != array.tobytes()]
    if differing:
        raise Deviates(f"{quantity}: {len(differing)} of {len(truth)} tensors differ, first {differing[0]}")
