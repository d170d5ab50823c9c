"""The quantities that are compared between two stacks, with their measures and tolerances.

A quantity is measured in groups (a loss, a sampling, an optimizer step); each group is a set of named arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, did_you_mean
from ...generation.sampling import mix
from ...model_files.architecture import Architecture

ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # the largest relative error of rounding one number
# Errors of independent roundings add up by their squares. A layer rounds each number about a dozen times, and 64 of them
# in one direction is what a thousand layers would leave.
ROUNDINGS = 64
UNIT = 2.0**-24  # the largest relative error of rounding one number to float32
SUMS = 4  # of a layer, one after another: into attention and out of it, into the feed-forward and out of it
SKETCH = 4093  # numbers kept of a larger tensor; prime, so that no stride of a matrix falls into one place


class Measure(str, Enum):
    """The way a deviation is computed."""

    ABSOLUTE = "absolute"  # largest |x - y|
    RELATIVE = "relative"  # norm of x - y over the norm of y, array by array
    UNEQUAL = "unequal"  # share of entries that differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity that two stacks must agree on.

    Attributes:
        tolerance: largest deviation that passes.
        axes: names of an array's axes, for messages.
        log_probs: entries are log-probs, whose rounding grows with their size (``log_prob_rounding``).
        backward: arrays are compared from the last layer to the first, as gradients flow.
    """

    name: str
    title: str
    measure: Measure
    tolerance: float
    axes: tuple[str, ...] = ()
    log_probs: bool = False
    backward: bool = False


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity(name="weights", title="weights as loaded", measure=Measure.RELATIVE, tolerance=0.0),
        Quantity(
            name="layer_logps", title="log-probs read off after each layer", measure=Measure.ABSOLUTE, tolerance=1e-4,
            axes=("layer", "row", "token"), log_probs=True,
        ),
        Quantity(
            name="logps", title="log-probs of tokens", measure=Measure.ABSOLUTE, tolerance=1e-4, axes=("row", "token"),
            log_probs=True,
        ),
        Quantity(name="entropy", title="entropies", measure=Measure.ABSOLUTE, tolerance=1e-4, axes=("row", "token")),
        Quantity(name="losses", title="losses", measure=Measure.ABSOLUTE, tolerance=1e-4),
        Quantity(
            name="gradients", title="gradients by parameter", measure=Measure.RELATIVE, tolerance=1e-4, backward=True
        ),
        Quantity(name="tokens", title="sampled tokens", measure=Measure.UNEQUAL, tolerance=0.0, axes=("row", "token")),
        Quantity(
            name="token_logps", title="log-probs of sampled tokens", measure=Measure.ABSOLUTE, tolerance=1e-4,
            axes=("row", "token"), log_probs=True,
        ),
        Quantity(name="step_losses", title="losses of optimizer steps", measure=Measure.ABSOLUTE, tolerance=1e-4),
        Quantity(name="step_norms", title="gradient norms of optimizer steps", measure=Measure.RELATIVE, tolerance=1e-4),
        Quantity(
            name="trained_weights", title="weights after optimizer steps", measure=Measure.RELATIVE, tolerance=1e-4
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One group of a quantity, as one stack computed it."""

    quantity: str
    group: str
    arrays: Mapping[str, NDArray[Any]]


def tolerances(replaced: Iterable[str], dtype: str = "float32") -> dict[str, float]:
    """Tolerance by quantity; texts like ``logps=1e-3`` replace the usual ones.

    Raises:
        ConfigError: no such quantity, or no number.
    """
    by_quantity = {name: tolerance_of(quantity, dtype) for name, quantity in QUANTITIES.items()}
    for text in replaced:
        name, _, value = text.partition("=")
        if name not in QUANTITIES:
            raise ConfigError(
                f"--tolerance {text}: there is no quantity {name!r}{did_you_mean(name, QUANTITIES)}; "
                f"accepted: {', '.join(QUANTITIES)}"
            )
        if not re.fullmatch(r"\d*\.?\d+([eE][-+]?\d+)?", value):
            raise ConfigError(f"--tolerance {text}: {value!r} is no number; written {name}=1e-3")
        by_quantity[name] = float(value)
    return by_quantity


def tolerance_of(quantity: Quantity, dtype: str) -> float:
    """The usual tolerance of a quantity where weights and arithmetic are of this type.

    In 16 bits it is a number of roundings, see ``ROUNDINGS``. Which token is drawn hangs on one rounding where two lie
    close together, so there the share of different tokens is reported and refuses nothing; log-probs of tokens are
    compared up to the first that differs.
    """
    if dtype == "float32" or quantity.name == "weights":
        return quantity.tolerance
    return 1.0 if quantity.measure is Measure.UNEQUAL else ROUNDINGS * ROUNDING[dtype]


def log_prob_rounding(model: Architecture) -> float:
    """The difference of log-probs by rounding alone that two stacks may have in float32, as a share of the log-prob.

    A float32 sum of n products errs by about sqrt(n) roundings of its size, as independent errors add up by their
    squares (Higham and Mary 2019, https://doi.org/10.1137/18M1226312). On its way to a logit a token passes ``SUMS``
    such sums in each of L layers, and one in the head; two stacks that add in different orders are sqrt(2) times as far
    apart: u sqrt(2 n (4 L + 1)), u = 2^-24, n the widest sum. An error that all logits have in common cancels in
    their softmax; what is left grows with a logit's distance from the largest, and that is the size of its log-prob.
    """
    widest = max(model.hidden, model.inner_width, model.heads * model.value_size)
    return UNIT * math.sqrt(2 * widest * (SUMS * model.layers + 1))


def by_layer(names: Iterable[str]) -> list[str]:
    """Parameter names in the order of computation: embedding, layers by number, final norm, head; steps by number."""

    def place(name: str) -> tuple[int, list[tuple[int, str]]]:
        words = re.split(r"(\d+)", name)
        stage = 1 if len(words) > 1 else 0 if "embed" in name else 3 if "head" in name else 2
        return stage, [(int(word), "") if word.isdigit() else (0, word) for word in words]

    return sorted(names, key=place)


def sketched(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Large tensors replaced by a count sketch of ``SKETCH`` numbers, small ones as they are.

    The entries, with pseudo-random signs, are added up in ``SKETCH`` places. So norms of tensors and of their
    differences are accurate to about 2%, and every entry counts (Charikar, Chen, Farach-Colton 2002,
    https://doi.org/10.1007/3-540-45465-9_59). A bundle of a large model stays small.
    """
    return {name: sketch(array) if array.size > SKETCH else np.asarray(array) for name, array in arrays.items()}


def sketch(array: NDArray[Any]) -> NDArray[np.float64]:
    """The count sketch of an array, ``[SKETCH]`` float64."""
    flat = np.ascontiguousarray(array).ravel()
    total = np.zeros(SKETCH)
    block = SKETCH * 256
    for start in range(0, flat.size, block):
        part = flat[start : start + block].astype(np.float64)
        places = np.arange(start, start + part.size, dtype=np.uint64)
        part *= 1.0 - 2.0 * (mix(places) >> np.uint64(63)).astype(np.float64)
        filled = np.pad(part, (0, -part.size % SKETCH))
        total += filled.reshape(-1, SKETCH).sum(axis=0)
    return total
