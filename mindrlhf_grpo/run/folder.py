"""The run folder: resolved configuration, progress, summary, and evidence when a run fails."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from .. import __version__
from ..config import yaml_source
from ..config.file import AnyConfig, dump
from ..errors import CheckpointError
from ..json_lines import replace_file
from ..types import Batch
from . import checkpoint

# Keys that may change between a run and its resumption: they change when or how fast things happen, not the result;
# and those that decide which rows are left out, which the rows already drawn do not depend on.
FREE = (
    "data.bad_rows", "data.overlong", "data.max_prompt_tokens", "data.max_tokens",
    "run_dir", "train.steps", "train.epochs", "train.on_alarm", "train.tokens_per_micro_batch", "rollout.slots", "eval",
    "checkpoint", "tracking",
    "parallel", "swap",
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Progress:
    """The trainer state that exact resume needs, as plain JSON.

    Attributes:
        before, after: held-out metrics of the untrained model and of the last evaluation.
        judged_by: the metric among them that the run is judged by.
        best, best_step: its best value, and the step.
        graded: whether an evaluation of an online run had rewards other than 0 and 1, so that they are no accuracy.
    """

    step: int = 0
    seconds: float = 0.0
    stream: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)  # state that an algorithm keeps between steps
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    judged_by: str = ""
    best: float | None = None
    best_step: int | None = None
    graded: bool = False
    stopped_because: str | None = None

    @staticmethod
    def of(saved: dict[str, Any]) -> Progress:
        """Read :func:`state`, or that of an older version, which called what an online run is judged by an accuracy."""
        known = {spec.name: saved[spec.name] for spec in fields(Progress) if spec.name in saved}
        if saved.get("best_accuracy") is not None:
            known |= {"best": saved["best_accuracy"], "judged_by": "eval/accuracy"}
        return Progress(**known)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``RUN`` and the files in it."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"{checkpoint.PREFIX}{step}"

    def open(self, config: AnyConfig, versions: dict[str, str]) -> None:
        """Create the folder with ``config.yaml``, or check that this configuration may resume it.

        Raises:
            CheckpointError: the folder holds a run made with other settings.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(self.checkpoints)
        self.check(config)
        lines = [f"# {name} {version}" for name, version in {"mindrlhf-grpo": __version__, **versions}.items()]
        replace_file(self.path / "config.yaml", ("\n".join(lines) + "\n" + dump(config)).encode())

    def check(self, config: AnyConfig) -> None:
        """Check that this configuration may resume the run in the folder.

        Raises:
            CheckpointError: it holds a run made with other settings.
        """
        saved = self.path / "config.yaml"
        if saved.exists() and checkpoint.steps(self.checkpoints):
            changed = differences(saved_config(saved, type(config)), config)
            if changed:
                raise CheckpointError(
                    f"{self.path} holds a run with other settings: {'; '.join(changed)}. "
                    "Use another run_dir, or delete this one"
                )

    def save_evidence(self, step: int, batch: Batch, reason: str, *, rank: int = 0) -> Path:
        """Save the rows of one rank that a run failed on (plain arrays) and the reason.

        The files are ``RUN/failure/step_N.npz`` and ``.txt``, of other ranks ``step_N_rank_R.npz`` and ``.txt``.
        """
        folder = self.path / "failure"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (f"step_{step}_rank_{rank}.npz" if rank else f"step_{step}.npz")
        prompts = {f"prompt_{index}": ids for index, ids in enumerate(batch.prompts)}
        arrays = {"prompt_of": batch.prompt_of, "ids": batch.ids, "lengths": batch.lengths, **batch.loss_tensors()}
        np.savez_compressed(path, **prompts, **arrays)
        path.with_suffix(".txt").write_text(reason + "\n")
        return path

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``RUN/summary.json``."""
        replace_file(self.path / "summary.json", json.dumps(summary, indent=1).encode())


def state(progress: Progress) -> dict[str, Any]:
    """Progress as JSON."""
    return asdict(progress)


def saved_config(path: Path, kind: type[AnyConfig]) -> AnyConfig:
    """Read the configuration that a run was made with.

    Raises:
        CheckpointError: it cannot be read as one of this kind.
    """
    try:
        return kind.model_validate(yaml_source.parse(path.read_text()).value)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise CheckpointError(
            f"{path} is not a configuration of this kind of run ({places}); use another run_dir"
        ) from None


def differences(old: AnyConfig, new: AnyConfig) -> list[str]:
    """Describe the keys outside ``FREE`` whose values differ."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    names = sorted(before.keys() | after.keys())
    fixed = [name for name in names if not any(name == free or name.startswith(free + ".") for free in FREE)]
    return [f"{n} was {before.get(n)!r}, is {after.get(n)!r}" for n in fixed if before.get(n) != after.get(n)]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists to dotted keys."""
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat.update(flatten(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat
