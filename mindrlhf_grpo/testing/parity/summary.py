"""A parity result in a few lines: one row for each quantity, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .check import Result
from .deviation import Finding
from .quantities import QUANTITIES

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All groups of a quantity.

    Attributes:
        where: place of the largest deviation; ``first``: first place beyond the tolerance, or None.
    """

    title: str
    findings: tuple[Finding, ...]
    deviation: float
    tolerance: float
    where: str
    first: str | None

    @property
    def passed(self) -> bool:
        return self.first is None

    @property
    def failed_groups(self) -> int:
        return sum(not finding.passed for finding in self.findings)


def rows(result: Result) -> list[Row]:
    """One row for each quantity, in the order of comparison."""
    names = list(dict.fromkeys(finding.quantity for finding in result.findings))
    return [row(name, [finding for finding in result.findings if finding.quantity == name]) for name in names]


def row(name: str, findings: Sequence[Finding]) -> Row:
    """The groups of one quantity together."""
    worst = max(findings, key=lambda finding: finding.deviation)
    beyond = next((finding for finding in findings if not finding.passed), None)
    return Row(
        title=QUANTITIES[name].title, findings=tuple(findings), deviation=worst.deviation, tolerance=worst.tolerance,
        where=place(worst, worst.where, len(findings)) if worst.deviation else "",
        first=None if beyond is None else place(beyond, beyond.first or "", len(findings)),
    )  # fmt: skip


def place(finding: Finding, where: str, groups: int) -> str:
    """A place with its group, where there are several."""
    return ": ".join(word for word in ([finding.group] if groups > 1 else []) + [where] if word)


def verdict(result: Result) -> str:
    """The result as one sentence."""
    who = f"{result.checked_backend} computes what {result.recorded_backend} recorded"
    if result.passed:
        return f"Passed: {who}, within tolerance in all {len(rows(result))} quantities."
    failed = [item.title for item in rows(result) if not item.passed]
    where = f"log-probs first deviate after {result.first_layer}" if result.first_layer else f"first in {failed[0]}"
    return f"Failed: {where}; {len(failed)} of {len(rows(result))} quantities are beyond their tolerance."


def number(value: float, *, zero: str = "0") -> str:
    """A deviation or tolerance, short."""
    if value == 0:
        return zero
    return "not comparable" if not math.isfinite(value) else f"{value:.1e}"


def table(result: Result) -> Table:
    """The rows as a table for a terminal."""
    from rich.table import Table

    shown = Table(pad_edge=False, box=None, header_style="bold")
    for name in ("quantity", "largest deviation", "tolerance", "result"):
        shown.add_column(name, justify="right" if name in ("largest deviation", "tolerance") else "left")
    for item in rows(result):
        mark = "[green]pass[/]" if item.passed else "[bold red]FAIL[/]"
        shown.add_row(item.title, number(item.deviation), number(item.tolerance), mark)
    return shown


def places(result: Result) -> list[str]:
    """A line for each quantity beyond its tolerance with the first such place, and one on the perturbation."""
    lines = [f"{item.title}: first beyond tolerance at {item.first}" for item in rows(result) if item.first]
    return [*lines, f"perturbed on purpose: {result.perturbed}"] if result.perturbed else lines
