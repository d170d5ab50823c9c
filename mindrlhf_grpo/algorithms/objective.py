"""The record of an offline objective: which rows, which loss, which model, and what is computed before an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

from ..backend import Loss
from .batch_constants import Preparation

OPTIONS = (
    "beta", "label_smoothing", "reference_free", "sft_coef", "gamma", "tau", "desirable", "undesirable", "centering"
)  # fmt: skip


class OfflineLoss(Loss, Protocol):
    """A loss with what a trainer asks about it.

    Attributes:
        counted_by: the sum that the others are divided by in metrics: ``pairs``, ``rows``, ``tokens``.
    """

    counted_by: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instead:
    """A peer's version of an objective: one of ours, with these numbers."""

    objective: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """An offline objective.

    Attributes:
        name, aliases: how a configuration names it (``objective.name``).
        rows: the kind of rows: ``conversations``, ``pairs``, ``labelled``.
        loss: class of the loss, a dataclass whose fields are the options it reads.
        model: whether a policy learns, or a model of values (a reward model).
        source, peers: its row in the tables of the documentation; the formula is the first sentence of its loss.
        prepare: makes the numbers of rows that depend on the full batch, before an update.
        min_rows: smallest number of rows per optimizer step.
        reads_margin: whether it reads the margin of a pair.
        presets: what a peer computes under this name, where it differs.
        hints: more about an option that it does not read, for the error.
    """

    name: str
    loss: Callable[..., OfflineLoss]
    rows: Literal["conversations", "pairs", "labelled"] = "pairs"
    model: Literal["policy", "value"] = "policy"
    source: str = ""
    peers: str = ""
    aliases: tuple[str, ...] = ()
    prepare: Preparation | None = None
    min_rows: int = 1
    reads_margin: bool = False
    presets: Mapping[str, Instead] = field(default_factory=lambda: MappingProxyType({}))
    hints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a configuration that its loss reads."""
        names = {field.name for field in fields(self.loss)}  # type: ignore[arg-type]
        return tuple(name for name in OPTIONS if name in names)
