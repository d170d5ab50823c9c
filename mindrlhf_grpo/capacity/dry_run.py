"""Will a configuration fit on machines that are not here? Neither weights nor data are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..algorithms.plan import resolve
from ..config.file import AnyConfig, read_config
from ..config.run import RunConfig
from ..errors import ConfigError, UserError
from ..model_files.architecture import Architecture
from ..model_files.weights import parameter_count, weight_shapes
from .device_layout import plans
from .known_models import architecture_of, find_known
from .memory import peak
from .model_shape import ModelShape, model_shape
from .prediction import Prediction, largest_scorer, layout_of, predict, refused, remedies, smallest

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Devices of one kind.

    Attributes:
        available: bytes of one device that a process can use, of those on its label.
        backend: which backend computes there.
        sharding: whether it can share weights out (``parallel``).
        images: whether it has models that read images.
    """

    name: str
    devices: int
    available: int
    backend: str
    sharding: bool = True
    images: bool = True


MACHINES = (
    Machine(name="8 x 80 GB CUDA", devices=8, available=79 * GIB, backend="torch"),
    Machine(name="8 x 64 GB Ascend", devices=8, available=60 * GIB, backend="mindspore", sharding=False, images=False),
)


def examine_config(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Predicted memory of a configuration on each machine; ``ok`` is whether it fits on that of its backend.

    Raises:
        ConfigError: no configuration is given.
    """
    if path is None:
        raise ConfigError("doctor --dry-run needs a configuration: mindrlhf-grpo doctor --dry-run CONFIG.yaml")
    findings: dict[str, Any] = {"machines": [], "problems": []}
    try:
        config, draft = read_config(path, overrides)
        architecture = architecture_of(config.model.path)
        frozen = config.model.freeze.prefixes if config.model.freeze is not None else ()
        shape = model_shape(architecture, weight_shapes(architecture), frozen)
        check_rules(config, shape)
        findings["model"] = {"path": config.model.path, "parameters": shape.parameters}
        known = find_known(config.model.path)
        if known is not None:
            findings["model"]["known_as"] = known.name
        scorer, findings["not_counted"] = largest_scorer(config, weights_of)
        findings["machines"] = [on_machine(config, architecture, shape, machine, scorer) for machine in MACHINES]
    except UserError as error:
        findings["problems"].append(str(error))
        return {**findings, "ok": False}
    meant = [found for found in findings["machines"] if found["backend"] == config.backend] or findings["machines"]
    findings["problems"] += [f"{draft.name}: {text}" for found in meant for text in problems_on(found)]
    return {**findings, "ok": not findings["problems"]}


def check_rules(config: AnyConfig, shape: ModelShape) -> None:
    """What can be wrong without looking at weights or data.

    Raises:
        ConfigError: an unknown algorithm or objective, or settings that are refused together.
    """
    if isinstance(config, RunConfig):
        resolve(config.algorithm).check(config.rollout.group_size)
    if refused(config, shape):
        raise ConfigError(refused(config, shape))


def weights_of(path: str) -> int:
    """Number of weights of a model that is known, or whose config.json is here."""
    return parameter_count(architecture_of(path))


def on_machine(
    config: AnyConfig, architecture: Architecture, shape: ModelShape, machine: Machine, scorer: int = 0
) -> dict[str, Any]:
    """One machine's part of the findings: as configured; if that is too much, what to change and which layout would do.

    What its backend does not have is left out of the configuration first.
    """
    missing = lacks(config, architecture, machine)
    if not machine.sharding:
        config = config.model_copy(update={"parallel": None})
    layout = layout_of(config, machine.devices)
    prediction = predict(config, shape, layout, "accelerator", scorer=scorer)
    found = {
        "name": machine.name, "backend": machine.backend, "devices": machine.devices, "available": machine.available,
        "layout": str(layout), **as_values(prediction), "fits": prediction.peak <= machine.available,
        "lacks": missing, "change": [], "plan": None,
    }  # fmt: skip
    if found["fits"]:
        return found
    found["change"] = remedies(
        config, shape, machine.devices, machine.available, scorer=scorer, sharding=machine.sharding
    )
    experts = architecture.experts.count if architecture.experts else 0
    layouts = plans(architecture.kv_heads, architecture.layers, experts)
    plan = smallest(config, shape, layouts, machine.available, scorer=scorer)
    if plan is not None:
        runs = plan[0].runs and machine.sharding
        found["plan"] = {"devices": plan[0].devices, "layout": str(plan[0]), "runs": runs, **as_values(plan[1])}
    return found


def lacks(config: AnyConfig, architecture: Architecture, machine: Machine) -> list[str]:
    """What the backend of a machine does not have of a run, whatever the memory."""
    missing = ["models that read images"] if architecture.vision and not machine.images else []
    if config.parallel is not None and config.parallel.strategy != "replicate" and not machine.sharding:
        missing.append(f"parallel.strategy={config.parallel.strategy}")
    return missing


def as_values(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain values."""
    return {"phases": prediction.phases, "peak": prediction.peak, "peak_phase": prediction.phase}


def problems_on(found: Mapping[str, Any]) -> Iterator[str]:
    """Why a run cannot be made on a machine."""
    if found["lacks"]:
        yield f"the {found['backend']} backend does not have {', '.join(found['lacks'])} yet"
    if not found["fits"]:
        yield too_large(found)


def too_large(found: Mapping[str, Any]) -> str:
    """What is too much on a machine, and what to do."""
    changes = f"fits with {' '.join(found['change'])}" if found["change"] else "no setting makes it fit"
    plan = found["plan"]
    split = f"; as it is, it takes {plan['devices']} devices ({plan['layout']}{beyond(plan)})" if plan else ""
    return (
        f"phase {found['peak_phase']} needs about {found['peak'] / GIB:.1f} GiB on a device of {found['name']}, "
        f"{found['available'] / GIB:.0f} GiB can be used; {changes}{split}"
    )


def beyond(plan: Mapping[str, Any]) -> str:
    """Said of layouts that are a plan only."""
    return "" if plan["runs"] else "; a plan, not made yet"


# ---- as text


def shown(findings: Mapping[str, Any]) -> str:
    """The findings for people."""
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
            yield f"  change: {' '.join(machine['change']) or 'no setting makes it fit'}"
        if machine["plan"]:
            plan = machine["plan"]
            yield (
                f"  as it is: {plan['devices']} devices ({plan['layout']}{beyond(plan)}), "
                f"{plan['peak'] / GIB:.1f} GiB each in phase {plan['peak_phase']}"
            )
    for problem in findings["problems"]:
        yield f"problem: {problem}"
    yield "It fits." if findings["ok"] else "It does not fit." if findings["machines"] else "Not ready."


def _phases(machine: Mapping[str, Any]) -> Iterator[str]:
    for phase, parts in machine["phases"].items():
        named = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items() if size >= GIB / 20)
        total = peak(parts)
        yield f" {'!' if total > machine['available'] else ' '}{phase:<12}{total / GIB:7.1f} GiB   {named}"
