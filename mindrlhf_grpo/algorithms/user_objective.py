"""Checks of a user's offline objective: its record, and its loss and preparation on two literal examples in NumPy.

They run wherever a configuration is resolved, so before weights are loaded, and every error names the file and line of
the user's code.
"""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np

from ..batches.offline import Denominators, build_offline_batch, with_numbers
from ..data.examples import Example
from ..errors import ConfigError
from ..losses.xp import NUMPY
from ..tokenizers.masks import make_completion
from ..types import Batch
from ..user_functions import describe, file_of, line_of
from .batch_constants import BatchContext
from .objective import Objective, OfflineLoss
from .user_defined import check_members, tried


def user_objective(thing: Any, reference: str) -> Objective:
    """The objective that a reference names, after its loss with default settings was computed on literal rows.

    Raises:
        ConfigError: something else than an Objective, or a loss or preparation that fails.
    """
    label = f"objective.name {reference!r}"
    if not isinstance(thing, Objective):
        raise ConfigError(f"{label} is a {type(thing).__name__}; it must be an Objective")
    if not (inspect.isclass(thing.loss) and is_dataclass(thing.loss)):
        raise ConfigError(
            f"{label} ({line_of(thing.loss)}): its loss must be a dataclass, whose fields are its options"
        )
    if thing.rows not in EXAMPLES or thing.model not in ("policy", "value"):
        raise ConfigError(
            f"{label}: rows must be one of {', '.join(EXAMPLES)} and model policy or value, not {thing.rows!r} and "
            f"{thing.model!r}"
        )
    return thing


def check_objective(objective: Objective, loss: OfflineLoss, reference: str, *, needs_reference: bool) -> None:
    """Compute a user's offline loss on two literal examples in NumPy.

    Raises:
        ConfigError: it fails, cannot be hashed, or does not return a scalar and the sum that it counts by.
    """
    label = f"objective.name {reference!r} ({line_of(objective.loss)})"
    file = file_of(objective.loss)
    examples = EXAMPLES[objective.rows]
    batch = build_offline_batch(examples, Denominators.of(examples))
    outputs = -0.5 * np.ones(batch.ids.shape)
    if needs_reference:
        batch = replace(batch, ref_logps=outputs * 1.5)
    check_members(loss, label)
    if objective.prepare is not None:
        batch = _prepared(objective, batch, examples, label)
    tried(loss, outputs, batch.loss_tensors(), label, file)
    sums = loss(NUMPY, outputs, batch.loss_tensors())[1]
    counted_by = getattr(loss, "counted_by", None)
    if counted_by not in {*sums, "tokens"}:
        raise ConfigError(
            f"{label}: counted_by is {counted_by!r}; it must name one of the sums {', '.join(sums)}, or tokens"
        )


def _prepared(objective: Objective, batch: Batch, examples: tuple[Example, ...], label: str) -> Batch:
    """The batch with the numbers that an objective makes of it."""

    def logps(batch: Batch) -> Any:
        return -0.5 * np.ones(batch.ids.shape)

    assert objective.prepare is not None
    context = BatchContext(
        examples=examples, share=range(len(examples)), batch=batch, logps=logps, ref_logps=logps,
        gather=lambda part: [part],
    )  # fmt: skip
    try:
        return with_numbers(batch, objective.prepare(context))
    except Exception as error:
        raise ConfigError(f"{label}: prepare failed: {describe(error, file_of(objective.prepare))}") from error


def _example(place: int, *lengths: int, **numbers: float) -> Example:
    completions = tuple(make_completion(range(1, n + 1), [1] * n) for n in lengths)
    return Example(uid=place, row=place, prompt=np.array([1, 2]), completions=completions, numbers=numbers)


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "conversations": (_example(0, 3), _example(1, 2)),
    "pairs": (_example(0, 3, 2), _example(1, 2, 1)),
    "labelled": (_example(0, 3, label=1.0), _example(1, 2, label=0.0)),
}
