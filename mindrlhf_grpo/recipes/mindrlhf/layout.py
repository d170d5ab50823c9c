"""MindRLHF's division of models over processes as ours: model and optimizer parallelism; others are no more than asked for.

What was asked for and cannot be had is a note where the model fits without it, and an error where it does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ...capacity.dry_run import GIB, MACHINES, quoted
from ...capacity.known_models import find_architecture
from ...capacity.model_shape import model_shape
from ...capacity.prediction import cuts_matrices, layout_of, predict, remedies, slices_of
from ...config.file import AnyConfig
from ...errors import ConfigError, UserError
from ...model_files.weights import weight_shapes

# Their names -> what they call in the field; those that nothing here divides by.
NOT_MADE = {"pipeline": "pipeline_stage", "experts": "expert_parallel", "context": "context_parallel"}
OPTIMIZER_LEVELS = {"optim": "zero1", "optim_grads": "zero2", "optim_grads_params": "fsdp"}  # MindFormers 2


def workers() -> int:
    """Return the number of processes of this run, as torchrun or msrun announce it."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("MS_WORKER_NUM") or 1)


def put_layout(values: dict[str, Any], named: Mapping[str, Any]) -> None:
    """Set ``parallel`` and ``rollout.parallel`` as far as processes and backend can be divided so."""
    count, backend = workers(), str(values["backend"])
    tensor, engine = int(named.get("train_tp") or 1), int(named.get("infer_tp") or named.get("train_tp") or 1)
    cuts = cuts_matrices(backend)
    if cuts and tensor > 1 and count % tensor == 0:
        values |= {"parallel.tensor": tensor, "parallel.strategy": "replicate"}
    if cuts and engine != tensor and count % engine == 0:
        values["rollout.parallel.tensor"] = engine
    strategy = strategy_of(named)
    if strategy != "replicate" and count > values.get("parallel.tensor", 1):
        values["parallel.strategy"] = strategy


def strategy_of(named: Mapping[str, Any]) -> str:
    """Return what processes with the same slices share out.

    Raises:
        ConfigError: a strategy of MindFormers 2 that is not known.
    """
    if named.get("optimizer_parallel") in (True, "True") or named.get("optimizer_shard") in (True, "True"):
        return "zero1"
    shards, strategy = int(named.get("shards") or 1), str(named.get("shard_strategy") or "optim_grads_params")
    if shards == 1:
        return "replicate"
    if strategy not in OPTIMIZER_LEVELS:
        raise ConfigError(
            f"parallelism.data_parallel_shard_strategy is {strategy!r}; accepted: {', '.join(OPTIMIZER_LEVELS)}"
        )
    if strategy == "optim_grads_params" and named.get("reshard") in ("never", False):
        return "zero2"
    return OPTIMIZER_LEVELS[strategy]


def not_honoured(config: AnyConfig, named: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was asked for and this run does not do."""
    tensor = int(named.get("train_tp") or 1)
    if tensor > 1 and (config.parallel is None or config.parallel.tensor != tensor):
        yield f"model_parallel {tensor}"
    for name, theirs in NOT_MADE.items():
        if int(named.get(name) or 1) > 1:
            yield f"{theirs} {named[name]}"


def check_layout(config: AnyConfig, named: Mapping[str, Any]) -> dict[str, str]:
    """Return what this run does not do of the division that was asked for -> the reason.

    Raises:
        ConfigError: without it the model does not fit on the devices that the backend is for.
    """
    left, count = list(not_honoured(config, named)), workers()
    reason = f"not done in {count} process{'es' if count > 1 else ''} on {config.backend}"
    machine = next((one for one in MACHINES if one.backend == config.backend), None)
    if not left or machine is None or config.model.device == "cpu":
        return dict.fromkeys(left, reason)
    try:
        architecture = find_architecture(config.model.path)
    except UserError:  # of a family whose sizes are not known
        return dict.fromkeys(left, reason)
    shape = model_shape(architecture, weight_shapes(architecture))
    found = predict(config, shape, layout_of(config, count), "accelerator")
    if found.peak <= machine.available:
        return dict.fromkeys(left, f"{reason}, and the model fits")
    slices = slices_of(architecture, machine.devices)
    changes = remedies(config, shape, machine.devices, machine.available, slices=slices)
    fits = (
        f"it fits in {machine.devices} processes with {' '.join(map(quoted, changes))}" if changes else "nothing helps"
    )
    raise ConfigError(
        f"{', '.join(left)}: {reason}, and without it phase {found.phase} needs about {found.peak / GIB:.0f} GiB on a "
        f"device of {machine.name}, {machine.available / GIB:.0f} GiB can be used; {fits}"
    )
