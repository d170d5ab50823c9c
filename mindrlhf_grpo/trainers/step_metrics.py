"""Metrics of one step: of its rollouts, of its optimizer steps, and whether these may be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..algorithms.completion_table import CompletionTable
from ..backend import UpdateResult
from ..batches.sums import combine
from ..environments.metrics import environment_metrics
from ..errors import RunFailed
from ..metrics.agreement import MAX_RATIO_DEV_FLOAT32, MEAN_LOG_RATIO_BFLOAT16
from ..metrics.means import mean
from .rollouts import DrawnRollouts


def rollout_metrics(drawn: DrawnRollouts, *, resampled: bool) -> dict[str, float]:
    """Rewards, lengths and dead groups of the global batch; nothing of rewards and lengths where none was kept.

    Args:
        resampled: dead groups gave their places to others: the numbers of all that was drawn are told apart.
    """
    table, failures = drawn.table, drawn.table.rewards.failures
    metrics = {
        "dead_group_frac": drawn.dead_prompts / drawn.prompts,
        "generation_rounds": float(drawn.rounds),
        "tokens/generated": float(drawn.tokens),
        "prompts": float(len(np.unique(table.prompt))),
    }
    if len(table.lengths):
        metrics |= completion_metrics(table)
    if resampled:
        metrics |= {"reward/drawn_mean": drawn.drawn_reward, "prompts/drawn": float(drawn.prompts)}
    if failures:
        metrics["reward/failed_frac"] = max(failures.values()) / max(1, drawn.completions)
    metrics |= {f"reward/failures/{name}": float(count) for name, count in failures.items()}
    return metrics | source_metrics(drawn)


def completion_metrics(table: CompletionTable) -> dict[str, float]:
    """Rewards and lengths of the completions of a step, of which there is at least one."""
    total = table.rewards.total()
    return {
        "reward/mean": mean(total),
        "reward/std": float(np.nanstd(total)) if np.isfinite(total).any() else 0.0,
        "reward/unscored_frac": float(np.isnan(total).all(axis=1).mean()),
        "length/mean": mean(table.sampled),
        "length/max": float(table.sampled.max()),
        "truncated_frac": mean(table.truncated),
        **{
            f"reward/{name}/mean": mean(table.rewards.values[:, index])
            for index, name in enumerate(table.rewards.names)
        },
        **environment_metrics(table.episodes),
        **({"tokens/environment": float((table.lengths - table.sampled).sum())} if table.episodes else {}),
    }


def source_metrics(drawn: DrawnRollouts) -> dict[str, float]:
    """Prompts and mean reward of each data source that the step drew from, where there are several."""
    metrics = {}
    names = np.asarray(drawn.sources)
    for name in sorted(set(filter(None, drawn.sources))):
        places = np.flatnonzero(names == name)
        metrics[f"source/{name}/prompts"] = float(len(places))
        metrics[f"source/{name}/reward"] = mean(drawn.table.rewards.total()[np.isin(drawn.table.prompt, places)])
    return metrics


def check_on_policy(result: UpdateResult, dtype: str) -> None:
    """Check that the first update's ratio to the rollouts is 1: it uses the weights that sampled them.

    Raises:
        RunFailed: the ratio is farther from 1 than the rounding of ``dtype`` explains.
    """
    tokens = max(1.0, result.sums.get("tokens", 0.0))
    if dtype == "float32":
        deviation = math.expm1(min(50.0, result.sums.get("max/rollout_gap", 0.0)))
        if not deviation <= MAX_RATIO_DEV_FLOAT32:
            raise RunFailed(
                f"on-policy ratio deviates from 1 by {deviation:.3g} (accepted: {MAX_RATIO_DEV_FLOAT32}): "
                "engine and policy disagree on log-probs"
            )
    elif not result.sums.get("rollout_gap", 0.0) / tokens <= MEAN_LOG_RATIO_BFLOAT16:
        raise RunFailed(
            f"mean |log ratio| between policy and engine is {result.sums['rollout_gap'] / tokens:.3g} "
            f"(accepted: {MEAN_LOG_RATIO_BFLOAT16}): engine and policy disagree on log-probs"
        )


def update_metrics(results: Sequence[UpdateResult]) -> dict[str, float]:
    """Metrics of the policy's optimizer steps; the ratio to the rollouts is that of the first one."""
    metrics = {"updates": float(len(results)), "tokens/trained": 0.0}
    if not results:
        return metrics
    tokens = max(1.0, sum(result.sums.get("tokens", 0.0) for result in results))

    def per_token(name: str) -> float:
        return sum(result.sums.get(name, 0.0) for result in results) / tokens

    metrics["tokens/trained"] = tokens
    metrics["loss"] = sum(result.loss for result in results) / len(results)
    metrics["grad_norm"] = sum(result.grad_norm for result in results) / len(results)
    metrics |= changed_metrics(results)
    metrics["entropy"] = per_token("entropy")
    if any("kl" in result.sums for result in results):  # else there is no reference, and nothing was measured
        metrics["kl/mean"] = per_token("kl")
    metrics["clip_frac/low"], metrics["clip_frac/high"] = per_token("clip_low"), per_token("clip_high")
    metrics["ratio/mean"] = per_token("ratio")
    metrics["ratio/max_update_dev"] = max(result.sums.get("max/ratio_dev", 0.0) for result in results)
    mixed = [sums for result in results for sums in result.also if "nll" in sums]
    if mixed:
        rows = combine(mixed)
        metrics["pretraining/nll"] = rows.get("nll", 0.0) / max(1.0, rows["tokens"])
    first = results[0].sums
    metrics["ratio/max_dev"] = math.expm1(min(50.0, first.get("max/rollout_gap", 0.0)))
    metrics["ratio/rollout_gap"] = first.get("rollout_gap", 0.0) / max(1.0, first.get("tokens", 0.0))
    return metrics


def changed_metrics(results: Sequence[UpdateResult]) -> dict[str, float]:
    """The share of the trained weights that an optimizer step changed, on average; nothing where it is not measured."""
    measured = [result.changed_frac for result in results if math.isfinite(result.changed_frac)]
    return {"weights/changed_frac": sum(measured) / len(measured)} if measured else {}
