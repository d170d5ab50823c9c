"""Checking a backend against a parity bundle.

``record`` and ``check`` share nothing but the bundle: they run in separate processes, on separate machines, with
separate frameworks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backend import load_backend
from ...errors import BundleError
from ...model_files.families import nearest_architecture
from ...model_files.folder import read_model_config
from .bundle import INPUTS, MODEL, Bundle, open_bundle
from .deviation import Finding, compare, layer_end, leaving_out, rounding_in_gradients
from .measurements import measure, start_policy
from .perturbation import Perturbation, perturbed_copy
from .quantities import QUANTITIES, Measurement, log_prob_rounding
from .record import Say, versions
from .workload import unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a check."""

    bundle: Path
    recorded: dict[str, str]
    checked: dict[str, str]
    recorded_backend: str
    checked_backend: str
    layers: int
    perturbed: str | None
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def first_layer(self) -> str | None:
        """The first place where log-probs deviate: ``model.layers.1``, or the parts before and after all layers."""
        ends = [finding.first_layer for finding in self.findings if finding.first_layer is not None]
        return layer_end(ends[0]) if ends else None


def check(
    folder: Path, *, backend: str, device: str = "auto", perturbation: Perturbation | None = None, say: Say
) -> Result:
    """Run a bundle on a backend and compare.

    Raises:
        BundleError: the bundle cannot be used.
        UserError: the backend is absent, or cannot run the bundle's workload.
    """
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if manifest.tolerances.keys() != QUANTITIES.keys():
        raise BundleError(f"{folder} has tolerances for other quantities than this version compares: record it again")
    try:
        batches, prompts = unpack(bundle.inputs())
    except KeyError as missing:
        raise BundleError(f"{folder / INPUTS} has no array {missing}: record the bundle again") from None
    with tempfile.TemporaryDirectory() as scratch:
        model = bundle.model
        if perturbation is not None:
            model = perturbed_copy(model, Path(scratch) / MODEL, perturbation)
        stack = load_backend(manifest.recipe.run_config(backend, str(model), device))
        policy = start_policy(stack, bundle.adapter)
        findings: list[Finding] = []
        noise = rounding_in_gradients(bundle.expected("gradients", manifest.recipe.trained_with))
        rounding = rounding_of(bundle)
        for measurement in measure(stack, policy, manifest.recipe, batches, prompts):
            refuse_other_groups(bundle, [(measurement.quantity, measurement.group)], manifest.groups)
            finding = compare_with(bundle, measurement, noise, rounding)
            findings.append(finding)
            say(line_of(finding))
        refuse_other_groups(bundle, manifest.groups, [(finding.quantity, finding.group) for finding in findings])
        checked = versions(stack)
    return Result(
        bundle=folder, recorded=manifest.versions, checked=checked, recorded_backend=manifest.backend,
        checked_backend=backend, layers=manifest.layers, findings=tuple(findings),
        perturbed=None if perturbation is None else describe(perturbation),
    )  # fmt: skip


def rounding_of(bundle: Bundle) -> float:
    """The share of a log-prob that rounding may change; 0 in 16 bits, whose tolerances count roundings already."""
    if bundle.manifest.recipe.dtype != "float32":
        return 0.0
    return log_prob_rounding(nearest_architecture(read_model_config(bundle.model)))


def compare_with(
    bundle: Bundle, measurement: Measurement, noise: Mapping[str, NDArray[np.bool_]], rounding: float
) -> Finding:
    """Compare a measurement with the bundle's; trained weights without the elements that move at random."""
    expected = bundle.expected(measurement.quantity, measurement.group)
    if measurement.quantity == "trained_weights":
        measurement = replace(measurement, arrays=leaving_out(measurement.arrays, expected, noise))
    tolerance = bundle.manifest.tolerances[measurement.quantity]
    return compare(QUANTITIES[measurement.quantity], measurement, expected, tolerance=tolerance, rounding=rounding)


def refuse_other_groups(
    bundle: Bundle, groups: Iterable[tuple[str, str]], accepted: Collection[tuple[str, str]]
) -> None:
    """Raise BundleError where the bundle and this version measure different groups."""
    for quantity, group in groups:
        if (quantity, group) not in accepted:
            raise BundleError(f"{bundle.folder} and this version differ in {quantity} of {group}: record it again")


def line_of(finding: Finding) -> str:
    """The line of progress for one comparison."""
    mark = "ok  " if finding.passed else "FAIL"
    return f"{mark} {QUANTITIES[finding.quantity].title}: {finding.group}: {finding.deviation:.1e}"


def describe(perturbation: Perturbation) -> str:
    """A perturbation in words."""
    place = "every element" if perturbation.place is None else f"element {list(perturbation.place)}"
    return f"{perturbation.value:g} added to {place} of {perturbation.name}"


def as_json(result: Result) -> dict[str, Any]:
    """The result for a program."""
    return {
        "passed": result.passed, "bundle": str(result.bundle),
        "recorded": {"backend": result.recorded_backend, **result.recorded},
        "checked": {"backend": result.checked_backend, **result.checked},
        "perturbed": result.perturbed, "first_deviating_layer": result.first_layer,
        "findings": [
            {
                "quantity": finding.quantity, "group": finding.group, "passed": finding.passed,
                "deviation": finding.deviation, "tolerance": finding.tolerance, "where": finding.where,
                "first_beyond": finding.first, "profile": [list(item) for item in finding.profile],
            }
            for finding in result.findings
        ],
    }  # fmt: skip


def write_json(result: Result, path: Path) -> None:
    """Write ``result.json``; an infinite deviation is the text ``inf``."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    path.write_text(json.dumps(plain(as_json(result)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
