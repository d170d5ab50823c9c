"""A parity result as one self-contained HTML page: no script, no network, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...report.page import asset, policy
from .check import Result
from .deviation import Finding
from .summary import Row, number, rows, verdict

FOLDER = Path(__file__).parent
DECADES = (-9.0, 1.0)  # of deviations, from one end of a bar to the other
CHARTS = {
    "layer_logps": "Log-probs read off after each layer",
    "trained_weights": "Weights after each optimizer step: the farthest tensor",
    "gradients": "Gradients by parameter: the farthest loss",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A deviation on a logarithmic scale; widths in percent."""

    label: str
    value: str
    width: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Deviations in order, with their tolerance."""

    title: str
    tolerance: str
    mark: float
    bars: tuple[Bar, ...]


def html_of(result: Result) -> str:
    """Render the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = asset("style.css") + (FOLDER / "parity.css").read_text(encoding="utf-8")
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("parity.html").render(
        name=result.bundle.resolve().name, result=result, verdict=verdict(result), rows=rows(result),
        charts=charts(rows(result)), stacks=stacks(result), number=number, version=__version__,
        style=Markup(style), policy=policy(style, ()),
    )  # fmt: skip


def stacks(result: Result) -> list[tuple[str, str, str, bool]]:
    """(component, recorded version, checked version, whether they differ) of both stacks."""
    names = dict.fromkeys([*result.recorded, *result.checked])
    pairs = [(name, result.recorded.get(name, ""), result.checked.get(name, "")) for name in names]
    return [(name, one, other, one != other) for name, one, other in pairs]


def charts(summary: Sequence[Row]) -> list[Chart]:
    """The charts of the quantities with an inner order."""
    by_quantity = {row.findings[0].quantity: row for row in summary}
    return [chart(title, by_quantity[name]) for name, title in CHARTS.items() if name in by_quantity]


def chart(title: str, row: Row) -> Chart:
    """One chart: by layer, by step, or by parameter."""
    findings = row.findings
    if findings[0].quantity == "trained_weights":
        values = [(finding.group, finding.deviation) for finding in findings]
    else:
        values = largest_by_label(findings)
    bars = tuple(
        Bar(label=label, value=number(value), width=width(value), passed=value <= row.tolerance)
        for label, value in values
    )
    return Chart(title=title, tolerance=number(row.tolerance), mark=width(row.tolerance), bars=bars)


def largest_by_label(findings: Sequence[Finding]) -> list[tuple[str, float]]:
    """The profiles of all groups together."""
    largest: dict[str, float] = {}
    for finding in findings:
        for label, value in finding.profile:
            largest[label] = max(largest.get(label, 0.0), value)
    return list(largest.items())


def width(value: float) -> float:
    """Percent of the scale."""
    if value <= 0:
        return 0.0
    low, high = DECADES
    place = math.log10(value) if math.isfinite(value) else high
    return round(100 * min(1.0, max(0.0, (place - low) / (high - low))), 2)
