"""The dry run: predicted memory of a configuration on machines of other kinds. Neither weights nor data are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..algorithms.plan import resolve
from ..config.file import AnyConfig, read_config
from ..config.parallel import ParallelConfig
from ..config.run import RunConfig
from ..errors import ConfigError, UserError
from ..model_files.architecture import Architecture
from ..model_files.weights import parameter_count, weight_shapes
from ..parallel.mesh import check_sizes
from .device_layout import NODE, NODES, DeviceLayout, plans, runnable
from .known_models import find_architecture, find_known
from .memory import peak
from .model_shape import ModelShape, model_shape
from .prediction import (
    WHOLE_WEIGHTS,
    Prediction,
    cuts_matrices,
    largest_scorer,
    layout_of,
    predict,
    refused,
    remedies,
    runs,
    slices_of,
    smallest,
    strategies_of,
)

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Devices of one kind.

    Attributes:
        available: bytes of one device that a process can use, less than its label says.
        backend: the backend that computes there.
        images: whether the backend has models that read images.
    """

    name: str
    devices: int
    available: int
    backend: str
    images: bool = True


MACHINES = (
    Machine(name="8 x 80 GB CUDA", devices=8, available=79 * GIB, backend="torch"),
    Machine(name="8 x 64 GB Ascend", devices=8, available=60 * GIB, backend="mindspore", images=False),
)


def examine_config(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Predict the memory of a configuration on each machine; ``ok`` is true if it fits on that of its backend.

    Raises:
        ConfigError: no configuration is given.
    """
    if path is None:
        raise ConfigError("doctor --dry-run needs a configuration: mindrlhf-grpo doctor --dry-run CONFIG.yaml")
    findings: dict[str, Any] = {"machines": [], "problems": []}
    try:
        config, draft = read_config(path, overrides)
        architecture = find_architecture(config.model.path)
        frozen = config.model.freeze.prefixes if config.model.freeze is not None else ()
        shape = model_shape(architecture, weight_shapes(architecture), frozen)
        check_rules(config)
        check_slices(config, architecture)
        findings["model"] = {"path": config.model.path, "parameters": shape.parameters}
        known = find_known(config.model.path)
        if known is not None:
            findings["model"]["known_as"] = known.name
        scorer, findings["not_counted"] = largest_scorer(config, count_weights)
        findings["machines"] = [on_machine(config, architecture, shape, machine, scorer) for machine in MACHINES]
    except UserError as error:
        findings["problems"].append(str(error))
        return {**findings, "ok": False}
    machines = findings["machines"]
    intended = [machine for machine in machines if machine["backend"] == config.backend] or machines
    findings["problems"] += [f"{draft.name}: {text}" for machine in intended for text in problems_on(machine)]
    return {**findings, "ok": not findings["problems"]}


def check_rules(config: AnyConfig) -> None:
    """Check the rules that need neither weights nor data.

    Raises:
        ConfigError: an unknown algorithm or objective, or settings that exclude each other.
    """
    if isinstance(config, RunConfig):
        resolve(config.algorithm).check(config.rollout.group_size)
    if refused(config):
        raise ConfigError(refused(config))


def check_slices(config: AnyConfig, architecture: Architecture) -> None:
    """Raise ConfigError for a model that cannot be cut as training or engine ask for."""
    for key, part in (("parallel.tensor", config.parallel), ("rollout.parallel.tensor", config.rollout.parallel)):
        if part is not None:
            check_sizes(architecture, part.tensor, key)


def count_weights(path: str) -> int:
    """Count the weights of a known model, or of one whose config.json is here."""
    return parameter_count(find_architecture(path))


def on_machine(
    config: AnyConfig, architecture: Architecture, shape: ModelShape, machine: Machine, scorer: int = 0
) -> dict[str, Any]:
    """The findings for one machine: the memory as configured and on every layout that its backend can run.

    If it is too much as configured: remedies and the smallest layout on which it would fit. Settings that the backend
    does not support are left out of the configuration first.
    """
    missing = lacks(config, architecture, machine)
    config = supported(config.model_copy(update={"backend": machine.backend}))
    layout = layout_of(config, machine.devices)
    prediction = predict(config, shape, layout, "accelerator", scorer=scorer)
    slices = slices_of(architecture, NODE)
    tested = slices if architecture.vision is None else [1]  # no test cuts a model that reads images
    here = [one for one in backend_layouts(config, machine.devices, tested) if accepted(config, one)]
    findings = {
        "name": machine.name, "backend": machine.backend, "devices": machine.devices, "available": machine.available,
        "layout": str(layout), **as_values(prediction), "fits": prediction.peak <= machine.available,
        "lacks": missing, "change": [], "plan": None,
        "layouts": [
            {"layout": str(one), "peak": predict(config, shape, one, "accelerator", scorer=scorer).peak} for one in here
        ],
    }  # fmt: skip
    if findings["fits"]:
        return findings
    findings["change"] = remedies(config, shape, machine.devices, machine.available, slices=tested, scorer=scorer)
    experts = architecture.experts.count if architecture.experts else 0
    larger = (one for count in NODES for one in backend_layouts(config, count * NODE, tested))
    layouts = [*(one for one in larger if accepted(config, one)), *plans(slices, architecture.layers, experts)]
    plan = smallest(config, shape, layouts, machine.available, scorer=scorer)
    if plan is not None:
        made = (
            runs(plan[0], machine.backend) and plan[0].tensor in tested and (machine.images or not architecture.vision)
        )
        findings["plan"] = {"devices": plan[0].devices, "layout": str(plan[0]), "runs": made, **as_values(plan[1])}
    return findings


def supported(config: AnyConfig) -> AnyConfig:
    """A configuration without the divisions over ranks that its backend does not have."""
    if config.parallel is not None and config.parallel.strategy not in strategies_of(config.backend):
        config = config.model_copy(update={"parallel": None})
    if cuts_matrices(config.backend):
        return config
    if config.parallel is not None:
        config = config.model_copy(update={"parallel": config.parallel.model_copy(update={"tensor": 1})})
    if isinstance(config, RunConfig):
        config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"parallel": None})})
    return config


def backend_layouts(config: AnyConfig, devices: int, slices: Sequence[int]) -> Iterator[DeviceLayout]:
    """Yield the layouts of so many devices that a configuration's backend can run."""
    sizes = slices if cuts_matrices(config.backend) else (1,)
    return runnable(devices, sizes, strategies_of(config.backend), whole=config.backend in WHOLE_WEIGHTS)


def accepted(config: AnyConfig, layout: DeviceLayout) -> bool:
    """True where the backend takes a configuration with this layout's strategy and tensor groups."""
    changed = {"strategy": layout.strategy, "tensor": layout.tensor}
    parallel = (config.parallel or ParallelConfig()).model_copy(update=changed)
    return not refused(config.model_copy(update={"parallel": parallel}))


def lacks(config: AnyConfig, architecture: Architecture, machine: Machine) -> list[str]:
    """List what a run needs and the backend of a machine does not support, whatever the memory."""
    missing = ["models that read images"] if architecture.vision and not machine.images else []
    if config.parallel is not None and config.parallel.strategy not in strategies_of(machine.backend):
        missing.append(f"parallel.strategy={config.parallel.strategy}")
    if not cuts_matrices(machine.backend):
        parts = {"parallel.tensor": config.parallel, "rollout.parallel.tensor": config.rollout.parallel}
        missing += [f"{key}={part.tensor}" for key, part in parts.items() if part is not None and part.tensor > 1]
    return missing


def as_values(prediction: Prediction) -> dict[str, Any]:
    """The prediction as plain values."""
    return {"phases": prediction.phases, "peak": prediction.peak, "peak_phase": prediction.phase}


def problems_on(machine: Mapping[str, Any]) -> Iterator[str]:
    """Yield the reasons why a run cannot be made on a machine."""
    if machine["lacks"]:
        yield f"the {machine['backend']} backend does not have {', '.join(machine['lacks'])} yet"
    if not machine["fits"]:
        yield too_large(machine)


def too_large(machine: Mapping[str, Any]) -> str:
    """The message about the phase that is too large on a machine, with what to change."""
    changes = (
        f"fits with {' '.join(map(quoted, machine['change']))}" if machine["change"] else "no setting makes it fit"
    )
    plan = machine["plan"]
    split = f"; as it is, it takes {plan['devices']} devices ({plan['layout']}{beyond(plan)})" if plan else ""
    return (
        f"phase {machine['peak_phase']} needs about {machine['peak'] / GIB:.1f} GiB on a device of {machine['name']}, "
        f"{machine['available'] / GIB:.0f} GiB can be used; {changes}{split}"
    )


def quoted(setting: str) -> str:
    """A setting as a shell takes it."""
    return f"'{setting}'" if " " in setting else setting


def beyond(plan: Mapping[str, Any]) -> str:
    """The note on a layout that this project cannot run."""
    return "" if plan["runs"] else "; a plan, not made yet"


# ---- as text


def shown(findings: Mapping[str, Any]) -> str:
    """The findings as text."""
    return "\n".join(_lines(findings))


def _lines(findings: Mapping[str, Any]) -> Iterator[str]:
    if "model" in findings:
        model = findings["model"]
        known = f" (sizes of {model['known_as']})" if "known_as" in model else ""
        yield f"{model['path']}: {model['parameters']:,} parameters{known}. Nothing was loaded."
        for path in findings.get("not_counted", ()):
            yield f"  not counted: {path}, which scores and whose size is not known"
    for machine in findings["machines"]:
        mark = "fits" if machine["fits"] else "does not fit"
        yield f"{machine['name']}, {machine['available'] / GIB:.0f} GiB usable, {machine['layout']}: {mark}"
        yield from _phases(machine)
        if machine["lacks"]:
            yield f"  left out, as the {machine['backend']} backend does not have it yet: {', '.join(machine['lacks'])}"
        if not machine["fits"]:
            yield f"  change: {' '.join(map(quoted, machine['change'])) or 'no setting makes it fit'}"
        yield from _layouts(machine)
        if machine["plan"]:
            plan = machine["plan"]
            yield (
                f"  as it is: {plan['devices']} devices ({plan['layout']}{beyond(plan)}), "
                f"{plan['peak'] / GIB:.1f} GiB each in phase {plan['peak_phase']}"
            )
    for problem in findings["problems"]:
        yield f"problem: {problem}"
    yield "It fits." if findings["ok"] else "It does not fit." if findings["machines"] else "Not ready."


def _layouts(machine: Mapping[str, Any]) -> Iterator[str]:
    """The peak of every layout that can be run."""
    peaks = (f"{one['layout']} {one['peak'] / GIB:.1f}{mark(one, machine)}" for one in machine["layouts"])
    yield f"  peak in GiB by layout (! does not fit): {', '.join(peaks)}"


def mark(layout: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    return "!" if layout["peak"] > machine["available"] else ""


def _phases(machine: Mapping[str, Any]) -> Iterator[str]:
    for phase, parts in machine["phases"].items():
        named = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items() if size >= GIB / 20)
        total = peak(parts)
        yield f" {'!' if total > machine['available'] else ' '}{phase:<12}{total / GIB:7.1f} GiB   {named}"
