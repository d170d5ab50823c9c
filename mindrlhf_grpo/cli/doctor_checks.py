"""What ``doctor`` checks besides the run's own check: code beside the weights, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ..capacity.memory import checkpoint_bytes
from ..capacity.model_shape import ModelShape
from ..capacity.prediction import models_beside
from ..config.file import AnyConfig
from ..errors import UserError
from ..model_files.folder import find_folder, read_model_config

GIB = 2**30


def foreign_code(config: AnyConfig) -> Iterator[tuple[str, str]]:
    """(key, problem) of a policy that only runs with Python code from its folder, which the configuration does not trust."""
    if config.model.trust_remote_code or config.backend != "torch":
        return
    try:
        model = read_model_config(find_folder(config.model.path))
    except UserError:
        return
    if "AutoModelForCausalLM" in (model.get("auto_map") or {}) and not known_to_transformers(model.get("model_type")):
        yield (
            "model.path",
            f"model.path: {config.model.path!r} runs Python code from its folder ({model['auto_map']['AutoModelForCausalLM']}); "
            "model.trust_remote_code=true if you trust it",
        )


def known_to_transformers(model_type: object) -> bool:
    """True for a kind of model that transformers computes with its own code."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def disk_findings(config: AnyConfig, shape: ModelShape) -> dict[str, int]:
    """Bytes of one checkpoint, of all that are there at once, and free where they go."""
    one = checkpoint_bytes(config, shape, critic=models_beside(config)[1])
    count = checkpoints_at_once(config)
    folder = config.run_dir.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return {"checkpoint": one, "count": count, "needed": one * count, "free": shutil.disk_usage(existing).free}


def checkpoints_at_once(config: AnyConfig) -> int:
    """The most checkpoints on the disk at once: those that are kept, the best, and one that is being written."""
    settings, steps = config.checkpoint, config.train.steps
    made = -(-steps // settings.every) if settings.every else 1
    kept = made if settings.keep_last == 0 else min(made, settings.keep_last)
    return kept + (1 if made > kept else 0) + (1 if settings.keep_best else 0)


def too_little_disk(disk: dict[str, int], run_dir: Path) -> str:
    """The problem with the room for checkpoints; empty if there is enough."""
    if disk["needed"] <= disk["free"]:
        return ""
    return (
        f"run_dir: {disk['count']} checkpoint{'s' * (disk['count'] > 1)} of {disk['checkpoint'] / GIB:.2f} GiB are in "
        f"{run_dir} at once, {disk['free'] / GIB:.2f} GiB are free there; lower checkpoint.keep_last, or take another run_dir"
    )
