"""Deviations of a measurement from the recorded one: the largest, its place, and the first place beyond the tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .quantities import Measure, Measurement, Quantity, by_layer

SMALL = (
    1e-6  # share of all arrays' norm: an array with a smaller norm (a gradient of rounding only) counts as having it
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The comparison of one measurement.

    Attributes:
        deviation: the largest deviation; infinite where something is missing or not a number.
        where: the place of the largest deviation.
        first: the first place beyond the tolerance, or None.
        first_layer: with log-probs by layer, the first layer end beyond the tolerance.
        profile: deviations by layer or by array, in order.
    """

    quantity: str
    group: str
    deviation: float
    tolerance: float
    where: str
    first: str | None
    first_layer: int | None
    profile: tuple[tuple[str, float], ...]

    @property
    def passed(self) -> bool:
        return self.first is None


@dataclass(frozen=True, slots=True)
class Part:
    """The deviations of one array: one number, or one per place."""

    name: str
    deviations: NDArray[np.float64]


def compare(
    quantity: Quantity,
    measured: Measurement,
    expected: Mapping[str, NDArray[Any]],
    *,
    tolerance: float,
    rounding: float = 0.0,
) -> Finding:
    """Compare a measurement with what was recorded for it.

    Args:
        rounding: ``log_prob_rounding`` of the model. Log-probs so large that this share of them is more than the
            tolerance may deviate by it: their deviations are scaled to that of the others.
    """
    parts = list(parts_of(quantity, measured.arrays, expected, rounding / tolerance if tolerance else 0.0))
    named = [(place, float(value)) for part in parts for place, value in places(quantity, part)]
    beyond = [place for place, value in named if not value <= tolerance]
    where, deviation = max(named, key=lambda item: item[1], default=("", 0.0))
    if quantity.measure is Measure.UNEQUAL and math.isfinite(deviation):
        deviation = sum(value for _, value in named) / len(named)
    profile = by_first_axis(parts[0]) if quantity.name == "layer_logps" and len(parts) == 1 else largest(parts)
    over = [number for number, (_, value) in enumerate(profile) if not value <= tolerance]
    return Finding(
        quantity=quantity.name, group=measured.group, deviation=deviation, tolerance=tolerance,
        where=where if deviation else "", first=beyond[0] if beyond else None,
        first_layer=over[0] if over and quantity.name == "layer_logps" else None, profile=tuple(profile),
    )  # fmt: skip


def parts_of(
    quantity: Quantity, measured: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], growth: float = 0.0
) -> Iterator[Part]:
    """Yield deviations array by array, in the order in which a reader should look at them.

    Args:
        growth: a log-prob y may deviate growth * abs(y) times as much as one near 0.
    """
    if quantity.name == "token_logps":
        yield Part("", scaled(token_logp_deviations(measured, expected), expected["logps"], growth))
        return
    names = by_layer(measured.keys() | expected.keys())
    floor = SMALL * math.sqrt(sum(norm(array) ** 2 for array in expected.values()))
    for name in reversed(names) if quantity.backward else names:
        label = name if len(names) > 1 else ""
        if name not in measured or name not in expected:
            side = "here" if name not in measured else "in the bundle"
            yield Part(f"{name} (missing {side})", np.asarray(math.inf))
        elif measured[name].shape != expected[name].shape:
            text = f"{name} (shape {list(measured[name].shape)}, recorded {list(expected[name].shape)})"
            yield Part(text, np.asarray(math.inf))
        else:
            found = deviations(quantity.measure, measured[name], expected[name], floor)
            yield Part(label, scaled(found, expected[name], growth) if quantity.log_probs else found)


def deviations(measure: Measure, measured: NDArray[Any], expected: NDArray[Any], floor: float) -> NDArray[np.float64]:
    """Deviations by place, or one for the array where the measure is relative; anything not a number deviates infinitely."""
    if measure is Measure.UNEQUAL:
        return np.asarray(measured != expected, dtype=np.float64)
    difference = measured.astype(np.float64) - expected.astype(np.float64)
    if measure is Measure.ABSOLUTE:
        return np.where(np.isfinite(difference), np.abs(difference), np.inf)
    if not np.isfinite(difference).all():
        return np.asarray(math.inf)
    return np.asarray(norm(difference) / max(norm(expected), floor) if difference.any() else 0.0)


def token_logp_deviations(
    measured: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """Log-probs of sampled tokens up to the first token that differs: after it they belong to other tokens."""
    if measured["tokens"].shape != expected["tokens"].shape:
        return np.asarray(math.inf)
    same = np.cumprod(measured["tokens"] == expected["tokens"], axis=1).astype(bool)
    difference = deviations(Measure.ABSOLUTE, measured["logps"], expected["logps"], 0.0)
    return np.where(same, difference, 0.0)


def scaled(deviations: NDArray[np.float64], logps: NDArray[Any], growth: float) -> NDArray[np.float64]:
    """Deviations of log-probs, each divided by what it may be more than that of a log-prob near 0."""
    if deviations.ndim == 0:
        return deviations
    shares: NDArray[np.float64] = deviations / np.maximum(1.0, growth * np.abs(logps.astype(np.float64)))
    return shares


def rounding_in_gradients(gradients: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Masks of vector elements whose gradient is nothing but rounding, by parameter.

    Biases of keys have such elements, where positions do not rotate them. AdamW divides rounding by rounding and moves
    them at random, so their values mean nothing. Matrices are compared in full: single elements do not show there.
    """
    largest = max((float(np.abs(array).max(initial=0.0)) for array in gradients.values()), default=0.0)
    return {name: np.abs(array) < SMALL * largest for name, array in gradients.items() if array.ndim == 1}


def leaving_out(
    measured: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[Any]]:
    """The measured arrays, with the recorded values in the masked places."""
    return {
        name: np.where(masks[name], expected[name], array)
        if name in masks and name in expected and array.shape == expected[name].shape == masks[name].shape
        else array
        for name, array in measured.items()
    }


def places(quantity: Quantity, part: Part) -> Iterator[tuple[str, float]]:
    """Yield every place of an array with its deviation."""
    if part.deviations.ndim == 0:
        yield part.name, float(part.deviations)
        return
    for index, value in np.ndenumerate(part.deviations):
        yield place_words(quantity, part.name, index), float(value)


def place_words(quantity: Quantity, name: str, index: tuple[int, ...]) -> str:
    """A place in words."""
    words = [
        layer_end(number) if axis == "layer" else f"{axis} {number}"
        for axis, number in zip(quantity.axes, index, strict=False)
    ]
    return ", ".join(word for word in [name, *words] if word)


def layer_end(number: int) -> str:
    """The part of the model before a layer end: 0 is the embedding, k is ``model.layers.k-1``."""
    return "embedding, final norm or head" if number == 0 else f"model.layers.{number - 1}"


def by_first_axis(part: Part) -> list[tuple[str, float]]:
    """Largest deviation by layer."""
    if part.deviations.ndim == 0:
        return [(part.name, float(part.deviations))]
    return [(layer_end(number), float(rows.max())) for number, rows in enumerate(part.deviations)]


def largest(parts: list[Part]) -> list[tuple[str, float]]:
    """Largest deviation by array."""
    return [(part.name, float(part.deviations.max(initial=0.0))) for part in parts]


def norm(array: NDArray[Any]) -> float:
    """L2 norm in float64."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))
