"""A chain of runs: each stage starts from the model that the previous stage ended with.

A YAML file names the folder of the chain and its stages in order, each a configuration of a run::

    run_dir: runs/chain
    stages:
      - {name: sft, config: sft.yaml}        # from the folder of this file
      - {name: rl, config: rl.yaml}

A stage's run lies in ``run_dir/NAME``; a finished stage is not run again, an interrupted one goes on. Under a launcher
of several processes each call makes one stage: a process group cannot be formed twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.file import AnyConfig, Draft
from ..config.yaml_source import parse
from ..errors import ConfigError
from ..run.export import find_policy

KEYS = {"run_dir", "stages"}
STAGE_KEYS = {"name", "config"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run of a chain: its name, its configuration's file, its folder."""

    name: str
    config: Path
    run_dir: Path

    def summary(self) -> dict[str, Any] | None:
        """Read the summary of the finished run; None while it is not finished."""
        try:
            summary: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return summary


def read_stages(path: Path) -> list[Stage]:
    """Read the stages of a file.

    Raises:
        ConfigError: it cannot be read, or is not a chain.
    """
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if document.problems:
        line, problem = document.problems[0]
        raise ConfigError(f"{path}:{line}: {problem}")
    value = document.value
    listed = value.get("stages") if isinstance(value, dict) else None
    if not isinstance(listed, list) or not listed or set(value) - KEYS or not isinstance(value.get("run_dir"), str):
        raise ConfigError(f"{path}: a chain has run_dir and a list stages of {{name, config}}, and nothing else")
    stages = []
    for number, stage in enumerate(listed):
        if (
            not isinstance(stage, dict)
            or set(stage) != STAGE_KEYS
            or not all(isinstance(v, str) for v in stage.values())
        ):
            raise ConfigError(f"{path}: stages.{number} is {stage!r}; a stage has a name and a config")
        run_dir = Path(value["run_dir"]) / stage["name"]
        stages.append(Stage(name=stage["name"], config=path.parent / stage["config"], run_dir=run_dir))
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or any(not name.isidentifier() for name in names):
        raise ConfigError(f"{path}: names of stages must be different identifiers, not {', '.join(names)}")
    return stages


def stage_config(
    stage: Stage, stages: Sequence[Stage], overrides: Sequence[str], *, model: bool
) -> tuple[AnyConfig, Draft]:
    """The configuration of a stage: its file, its folder, the model of the previous stage, overrides.

    Args:
        overrides: ``NAME.KEY=VALUE`` for one stage, ``KEY=VALUE`` for all.
        model: whether the previous stage is finished, so that its model exists.

    Raises:
        ConfigError: naming the stage.
    """
    names = {other.name for other in stages}
    for_stage = [text for text in overrides if text.partition(".")[0] not in names]
    for_stage += [text.removeprefix(f"{stage.name}.") for text in overrides if text.startswith(f"{stage.name}.")]
    draft = Draft.from_file(stage.config)
    draft.put(("run_dir",), str(stage.run_dir), "the chain")
    previous = stages[[other.name for other in stages].index(stage.name) - 1]
    if model and stage is not stages[0]:
        draft.put(("model", "path"), str(find_policy(previous.run_dir)), f"the stage {previous.name}")
    try:
        draft.with_overrides(for_stage)
        return draft.validated(), draft
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from None


def launched_processes() -> int:
    """Number of processes that torchrun or msrun started together."""
    return max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "MS_WORKER_NUM"))


def run_stages(path: Path, overrides: Sequence[str], note: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Run a chain to its end, or with several processes its next stage; returns the summary of each finished stage.

    Raises:
        ConfigError: the file or the configuration of a stage is wrong.
        CheckpointError: a finished stage was made with other settings.
    """
    from ..run.folder import RunFolder
    from . import train
    from .preflight import check

    stages = read_stages(path)
    for stage in stages:
        stage_config(
            stage, stages, overrides, model=False
        )  # a mistake in the last stage is reported before the first one runs
    summaries: dict[str, dict[str, Any]] = {}
    for stage in stages:
        config, draft = stage_config(stage, stages, overrides, model=True)
        done = stage.summary()
        if done is not None:
            RunFolder(stage.run_dir).check(config)
            note(f"stage {stage.name} is finished: {stage.run_dir}")
            summaries[stage.name] = done
            continue
        check(config, draft)
        note(f"stage {stage.name}: {stage.run_dir}, from {config.model.path}")
        summaries[stage.name] = train(config)
        if launched_processes() > 1 and stage is not stages[-1]:
            note(f"stage {stage.name} is finished; the same command makes the next one")
            break
    return summaries
