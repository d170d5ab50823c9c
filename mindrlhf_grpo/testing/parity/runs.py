"""Comparison of two training runs: tokens and rewards step by step, losses, and the final weights.

It reads the files of a run (``rollouts/step_N.jsonl``, ``metrics.jsonl``, ``checkpoints/``), so it needs neither
framework. Runs must have logged every step's rollouts (``tracking.rollouts_every: 1``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ...json_lines import read_json_lines
from ...model_files.checkpoint_folders import PREFIX, steps
from ...model_files.folder import read_header, weight_files
from ...model_files.safetensors import read_tensor
from ...run import checkpoint
from ...run.rollout_log import RolloutRecord, read_rollouts, rollout_path
from .quantities import by_layer
from .summary import number

if TYPE_CHECKING:
    from rich.table import Table

LOSSES = 1e-4  # largest difference of losses
WEIGHTS = 1e-4  # largest norm of a difference, over the norm of the tensor
ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComparison:
    """One step of both runs.

    Attributes:
        completions: number of completions; ``same_tokens``, ``same_rewards``: of those in which the runs agree exactly.
        logps: largest difference of sampling log-probs, over completions with the same tokens.
        losses, grad_norms: values of both runs.
    """

    step: int
    completions: int
    same_tokens: int
    same_rewards: int
    logps: float
    losses: tuple[float, float]
    grad_norms: tuple[float, float]

    @property
    def loss_gap(self) -> float:
        return abs(self.losses[0] - self.losses[1])

    @property
    def passed(self) -> bool:
        return self.same_tokens == self.same_rewards == self.completions and self.loss_gap <= LOSSES


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Two runs: their steps, and the relative distance of every tensor of the last checkpoint, in order of layers."""

    names: tuple[str, str]
    steps: tuple[StepComparison, ...]
    weights: tuple[tuple[str, float], ...]
    checkpoint: int

    @property
    def farthest(self) -> tuple[str, float]:
        return max(self.weights, key=lambda item: item[1])

    @property
    def passed(self) -> bool:
        return all(step.passed for step in self.steps) and self.farthest[1] <= WEIGHTS


def compare_runs(one: Path, other: Path, names: tuple[str, str] | None = None) -> RunComparison:
    """Compare the runs in two folders.

    Raises:
        DataError: a run without metrics, rollouts or checkpoint, or runs of different length.
    """
    metrics = [read_metrics(one), read_metrics(other)]
    if metrics[0].keys() != metrics[1].keys():
        raise DataError(f"{one} has steps up to {max(metrics[0])}, {other} up to {max(metrics[1])}")
    steps = tuple(compare_step(step, (one, other), (metrics[0][step], metrics[1][step])) for step in metrics[0])
    last, policies = zip(*(newest_policy(run) for run in (one, other)), strict=True)
    if last[0] != last[1]:
        raise DataError(f"the last checkpoint of {one} is of step {last[0]}, that of {other} of step {last[1]}")
    return RunComparison(
        names=names or (one.name, other.name), steps=steps, weights=tuple(compare_weights(*policies)),
        checkpoint=last[0],
    )  # fmt: skip


def read_metrics(run: Path) -> dict[int, dict[str, Any]]:
    """Metrics by step, without the evaluation before training."""
    by_step = {int(row["step"]): row for row in read_json_lines(run / "metrics.jsonl").rows if row.get("step")}
    if not by_step:
        raise DataError(f"{str(run)!r} is no run: there are no steps in {run / 'metrics.jsonl'}")
    return by_step


def compare_step(step: int, runs: tuple[Path, Path], metrics: tuple[dict[str, Any], dict[str, Any]]) -> StepComparison:
    """Compare one step of both runs."""
    one, other = (completions(run, step) for run in runs)
    both = one.keys() & other.keys()
    same = [key for key in both if one[key].ids == other[key].ids]
    gaps = [
        abs(a - b) if a is not None and b is not None else math.inf
        for key in same
        for a, b in zip(one[key].logps, other[key].logps, strict=True)
    ]
    return StepComparison(
        step=step, completions=len(one.keys() | other.keys()), same_tokens=len(same),
        same_rewards=sum(
            (one[key].reward, one[key].components) == (other[key].reward, other[key].components) for key in both
        ),
        logps=max(gaps, default=0.0), losses=pair(metrics, "loss"), grad_norms=pair(metrics, "grad_norm"),
    )  # fmt: skip


def completions(run: Path, step: int) -> dict[tuple[int, int], RolloutRecord]:
    """Completions of a step by (uid, sample)."""
    path = rollout_path(run, step)
    if not path.is_file():
        raise DataError(f"{path} is missing: a run that is compared keeps all rollouts (tracking.rollouts_every: 1)")
    return {(record.uid, record.sample): record for record in read_rollouts(path)}


def pair(metrics: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """One metric of both runs; NaN where it is absent or was not finite."""
    one, other = (row.get(name) for row in metrics)
    return (math.nan if one is None else float(one), math.nan if other is None else float(other))


def newest_policy(run: Path) -> tuple[int, Path]:
    """Step and policy folder of the newest checkpoint, its files compared with their manifest."""
    saved = steps(run / "checkpoints")
    if not saved:
        raise DataError(f"{run} has no checkpoint")
    folder = run / "checkpoints" / f"{PREFIX}{saved[-1]}"
    checkpoint.verify(folder)
    return saved[-1], folder / "policy"


def compare_weights(one: Path, other: Path) -> list[tuple[str, float]]:
    """Distance of every tensor over its norm; infinite where one side lacks it or has another shape."""
    headers = [headers_of(folder) for folder in (one, other)]
    distances: list[tuple[str, float]] = []
    for name in by_layer(headers[0].keys() | headers[1].keys()):
        if name not in headers[0] or name not in headers[1]:
            distances.append((name, math.inf))
            continue
        values = [read_tensor(file, read_header(file)[name]).astype(np.float64) for file in (h[name] for h in headers)]
        distances.append((name, distance(*values) if values[0].shape == values[1].shape else math.inf))
    return distances


def headers_of(folder: Path) -> dict[str, Path]:
    """Tensor name -> its file, of a model or an adapter."""
    files = [folder / ADAPTER] if (folder / ADAPTER).is_file() else weight_files(folder)
    return {name: file for file in files for name in read_header(file)}


def distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Norm of the difference over the norm."""
    gap = float(np.linalg.norm(one - other))
    return gap / float(np.linalg.norm(other)) if gap else 0.0


def table(result: RunComparison) -> Table:
    """Steps as rows: completions with equal tokens and equal rewards, losses, and how far log-probs are apart."""
    from rich.table import Table

    one, other = result.names
    shown = Table(pad_edge=False, box=None, header_style="bold")
    for name in ("step", "tokens", "rewards", f"loss {one}", f"loss {other}", "apart", "logps apart", ""):
        shown.add_column(name, justify="right", no_wrap=True)
    for step in result.steps:
        shown.add_row(
            str(step.step), f"{step.same_tokens}/{step.completions}", f"{step.same_rewards}/{step.completions}",
            f"{step.losses[0]:+.6f}", f"{step.losses[1]:+.6f}", number(step.loss_gap), number(step.logps),
            "[green]pass[/]" if step.passed else "[bold red]FAIL[/]",
        )  # fmt: skip
    return shown


def sentences(result: RunComparison) -> list[str]:
    """The sentences under the table: final weights and verdict."""
    name, gap = result.farthest
    completions = sum(step.completions for step in result.steps)
    bad = next((step.step for step in result.steps if not step.passed), None)
    verdict = "Passed" if result.passed else f"Failed{'' if bad is None else f', first at step {bad}'}"
    return [
        f"weights after step {result.checkpoint}: {len(result.weights)} tensors, farthest {name}: "
        f"{number(gap)} of its norm (accepted {WEIGHTS:g})",
        f"{verdict}: {len(result.steps)} steps, {completions} completions, losses within "
        f"{number(max(step.loss_gap for step in result.steps))} (accepted {LOSSES:g}).",
    ]


def as_json(result: RunComparison) -> dict[str, Any]:
    """The comparison as a few numbers."""
    name, gap = result.farthest
    return {
        "passed": result.passed, "runs": list(result.names), "steps": len(result.steps),
        "same_tokens": all(step.same_tokens == step.completions for step in result.steps),
        "same_rewards": all(step.same_rewards == step.completions for step in result.steps),
        "largest_loss_difference": max(step.loss_gap for step in result.steps),
        "largest_logp_difference": max(step.logps for step in result.steps),
        "farthest_weight": name, "farthest_weight_distance": gap,
    }  # fmt: skip
