"""The run folder: resolved configuration, progress, summary, and evidence when a run fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from .. import __version__
from ..config import yaml_source
from ..config.file import AnyConfig, plain_values
from ..config.secrets import hide_secrets
from ..errors import CheckpointError
from ..json_lines import replace_file
from ..model_files.checkpoint_folders import PREFIX, steps
from ..types import Batch
from . import checkpoint
from .export import pin_models

# Keys that may change between a run and its resumption: they change when or how fast things happen, not the result;
# and those that decide which rows are left out, which the rows already drawn do not depend on.
FREE = (
    "data.bad_rows", "data.overlong", "data.max_prompt_tokens", "data.max_tokens",
    "run_dir", "train.steps", "train.epochs", "train.on_alarm", "train.tokens_per_micro_batch", "rollout.slots", "eval",
    "checkpoint", "tracking",
    "parallel", "rollout.parallel", "swap",
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
        return self.checkpoints / f"{PREFIX}{step}"

    def open(self, config: AnyConfig, versions: dict[str, str], resolved: Mapping[str, Any] | None = None) -> None:
        """Create the folder with ``config.yaml``, or check that this configuration may resume it.

        Args:
            resolved: the numbers that the configuration leaves to presets and shares, for ``resolved.yaml``.

        Raises:
            CheckpointError: the folder holds a run made with other settings, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"the run folder {str(self.path)!r} cannot be made: {error.strerror}") from None
        checkpoint.clean(self.checkpoints)
        self.check(config)
        lines = [f"# {name} {version}" for name, version in {"mindrlhf-grpo": __version__, **versions}.items()]
        replace_file(self.path / "config.yaml", ("\n".join(lines) + "\n" + shareable(config)).encode())
        if resolved is not None:
            replace_file(self.path / "resolved.yaml", yaml_source.dump(dict(resolved)).encode())

    def check(self, config: AnyConfig) -> None:
        """Check that this configuration may resume the run in the folder.

        Raises:
            CheckpointError: it holds a run made with other settings.
        """
        saved = self.path / "config.yaml"
        if saved.exists() and steps(self.checkpoints):
            changed = differences(saved_config(saved, type(config)), pin_models(config))
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
        arrays = {"prompt_of": batch.prompt_of, "ids": batch.ids, "lengths": batch.lengths, **batch.loss_tensors()} | (
            {} if batch.sampled is None else {"sampled": batch.sampled}
        )
        np.savez_compressed(path, **prompts, **arrays)
        path.with_suffix(".txt").write_text(reason + "\n")
        return path

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``RUN/summary.json``."""
        replace_file(self.path / "summary.json", json.dumps(summary, indent=1).encode())


def state(progress: Progress) -> dict[str, Any]:
    """Progress as JSON."""
    return asdict(progress)


def shareable(config: AnyConfig) -> str:
    """The configuration as YAML for files that are shown to others: secrets in arguments are hidden."""
    return yaml_source.dump(hide_secrets(plain_values(config)))


def saved_config(path: Path, kind: type[AnyConfig]) -> AnyConfig:
    """Read the configuration that a run was made with.

    Raises:
        CheckpointError: it cannot be read as one of this kind.
    """
    try:
        document = yaml_source.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {NEW_RUN}") from None
    if document.problems or not isinstance(document.value, dict):
        reason = f"line {document.problems[0][0]}: {document.problems[0][1]}" if document.problems else "it is empty"
        raise CheckpointError(f"{path} does not hold the settings of this run ({reason}); {NEW_RUN}")
    try:
        return kind.model_validate(document.value)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise CheckpointError(f"{path} is not a configuration of this kind of run ({places}); {NEW_RUN}") from None


NEW_RUN = "put the file back, or use another run_dir"


def differences(old: AnyConfig, new: AnyConfig) -> list[str]:
    """Describe the keys outside ``FREE`` whose values differ."""
    before, after = (flatten(hide_secrets(plain_values(config))) for config in (old, new))
    names = sorted(before.keys() | after.keys())
    lengths = ("train.steps", "train.epochs")
    free = [name for name in FREE if name not in lengths or not old.train.bound_to_steps]
    fixed = [name for name in names if not any(name == key or name.startswith(f"{key}.") for key in free)]
    why = " (its learning rates are spread over all steps: the steps already made would have had others)"
    return [
        f"{name} was {before.get(name)!r}, is {after.get(name)!r}{why if name in lengths else ''}"
        for name in fixed
        if before.get(name) != after.get(name)
    ]


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
