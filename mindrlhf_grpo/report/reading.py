"""Reads a run folder, finished or not: unreadable parts are skipped and counted, never fatal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import UserError
from ..json_lines import parse_object, read_json_lines
from ..run.rollout_log import RolloutRecord, rollout_path

MAX_POINTS = 5_000  # more steps than this are thinned evenly; evaluated steps always stay


@dataclass(slots=True, kw_only=True)
class Run:
    """A run on disk.

    Attributes:
        steps: ascending step numbers with metrics.
        series: metric name -> one value per step; None where not measured or not finite.
        not_finite: metric name -> steps where it was recorded but not finite.
        config, config_text: the configuration; empty if absent.
        resolved_text: the numbers that presets filled in; empty if absent.
        versions: package -> version, from the first comment lines of ``config.yaml``.
        summary: ``summary.json``; empty while the run is not finished.
        failure: the reason why the run stopped itself; empty if it did not.
        rollout_steps: ascending steps whose completions are on disk.
        skipped: descriptions of everything that could not be read.
    """

    path: Path
    steps: list[int] = field(default_factory=list)
    series: dict[str, list[float | None]] = field(default_factory=dict)
    not_finite: dict[str, list[int]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    resolved_text: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    rollout_steps: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """The measured values of a metric, in order of steps."""
        return [value for value in self.series.get(name, []) if value is not None]

    def setting(self, *keys: str) -> Any:
        """A value of the configuration by its path, None if absent."""
        node: Any = self.config
        for name in keys:
            node = node.get(name) if isinstance(node, dict) else None
        return node


def read_run(run_dir: Path) -> Run:
    """Read everything that the report shows, except the completions.

    Raises:
        UserError: no such folder.
    """
    if not run_dir.is_dir():
        raise UserError(
            f"{run_dir} is not a folder; a run's report is made from the folder that holds its metrics.jsonl"
        )
    run = Run(path=run_dir)
    _read_metrics(run)
    _read_config(run)
    _read_summary(run)
    _add_first_evaluation(run)
    evidence = sorted((run_dir / "failure").glob("step_*.txt"), key=step_of)
    run.failure = evidence[-1].read_text(errors="replace").strip() if evidence else ""
    run.rollout_steps = sorted(
        step_of(path) for path in (run_dir / "rollouts").glob("step_*.jsonl") if step_of(path) >= 0
    )
    return run


def step_of(path: Path) -> int:
    """The step in a file name ``step_N.*``; -1 if there is none."""
    match = re.fullmatch(r"step_(\d{1,12})", path.name.split(".")[0])
    return int(match[1]) if match else -1


def _read_metrics(run: Run) -> None:
    """Fill steps and series. Lines of the same step are merged, the later one wins."""
    lines = read_json_lines(run.path / "metrics.jsonl")
    merged: dict[int, dict[str, Any]] = {}
    unusable = len(lines.bad)
    for row in lines.rows:
        step = row.pop("step", None)
        if isinstance(step, bool) or not isinstance(step, int):
            unusable += 1
        else:
            merged.setdefault(step, {}).update(row)
    if unusable:
        run.skipped.append(f"{unusable} unreadable line{'s' * (unusable > 1)} of metrics.jsonl")
    for step, row in merged.items():
        for name, value in row.items():
            if not is_finite(value):
                run.not_finite.setdefault(name, []).append(step)
    run.steps = thinned(sorted(merged), {step for step, row in merged.items() if "eval/problems" in row})
    if len(run.steps) < len(merged):
        run.skipped.append(f"{len(merged) - len(run.steps)} of {len(merged)} steps, to keep the curves light")
    names = dict.fromkeys(name for row in merged.values() for name in row)
    run.series = {name: [as_number(merged[step].get(name)) for step in run.steps] for name in names}


def thinned(steps: Sequence[int], keep: set[int]) -> list[int]:
    """At most about ``MAX_POINTS`` evenly spread steps, the last one and those of ``keep`` included."""
    stride = math.ceil(len(steps) / MAX_POINTS)
    return [step for at, step in enumerate(steps) if at % max(1, stride) == 0 or at == len(steps) - 1 or step in keep]


def is_finite(value: Any) -> bool:
    """True for a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def as_number(value: Any) -> float | None:
    """The finite number, or None."""
    return float(value) if is_finite(value) else None


def _read_config(run: Run) -> None:
    path = run.path / "config.yaml"
    if not path.exists():
        run.skipped.append("config.yaml (not there)")
        return
    run.config_text = path.read_text(errors="replace")
    resolved = run.path / "resolved.yaml"  # runs of earlier versions have none
    run.resolved_text = resolved.read_text(errors="replace") if resolved.is_file() else ""
    for line in run.config_text.splitlines():
        match = re.fullmatch(r"# (\S+) (\S.*)", line)
        if not match:
            break
        run.versions[match[1]] = match[2]
    try:
        config = yaml.safe_load(run.config_text)
    except yaml.YAMLError:
        config = None
    if isinstance(config, dict):
        run.config = config
    else:
        run.skipped.append("config.yaml (not readable as YAML)")


def _read_summary(run: Run) -> None:
    path = run.path / "summary.json"
    if not path.exists():
        return
    summary = parse_object(path.read_bytes())
    if isinstance(summary, str):
        run.skipped.append("summary.json (not readable as JSON)")
    else:
        run.summary = summary


def _add_first_evaluation(run: Run) -> None:
    """Add the held-out metrics of the untrained model to the curves, at step 0."""
    before = run.summary.get("before")
    measured = {
        f"eval/{name}": as_number(value) for name, value in (before if isinstance(before, dict) else {}).items()
    }
    held_out = run.summary.get("held_out")
    untrained = held_out.get("before") if isinstance(held_out, dict) else None
    measured |= {
        str(name): as_number(value) for name, value in (untrained if isinstance(untrained, dict) else {}).items()
    }
    measured["eval/accuracy"] = measured.get("eval/accuracy", as_number(run.summary.get("accuracy_before")))
    untrained_values = {
        name: value for name, value in measured.items() if value is not None and name != "eval/problems"
    }
    if not untrained_values or not run.steps or run.steps[0] <= 0:
        return
    run.steps.insert(0, 0)
    for values in run.series.values():
        values.insert(0, None)
    for name, value in untrained_values.items():
        run.series.setdefault(name, [None] * len(run.steps))[0] = value


def read_completions(run: Run, step: int) -> tuple[list[RolloutRecord], int]:
    """The readable completions of a step, and the number of unreadable lines."""
    lines = read_json_lines(rollout_path(run.path, step))
    records: list[RolloutRecord] = []
    for row in lines.rows:
        try:
            records.append(RolloutRecord.model_validate(row))
        except ValidationError:
            continue
    return records, len(lines.bad) + len(lines.rows) - len(records)
