"""What the optimizer steps of one rollout batch looked like, as metrics, and whether they may be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..backend import UpdateResult
from ..batches.sums import combine
from ..errors import RunFailed

# How far training log-probs may be from the engine's before the run stops. float32: largest |ratio - 1| of a
# token; bfloat16: mean |log ratio|, because single tokens scatter by rounding.
MAX_RATIO_DEV_FLOAT32 = 0.01
MEAN_LOG_RATIO_BFLOAT16 = 0.2


def check_on_policy(result: UpdateResult, dtype: str) -> None:
    """The first update of a batch uses the weights that sampled it: its ratio to the rollouts must be 1.

    Raises:
        RunFailed: it is not, within what the rounding of ``dtype`` explains.
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
    """Figures of the policy's optimizer steps; the ratio to the rollouts is that of the first one."""
    metrics = {"updates": float(len(results)), "tokens/trained": 0.0}
    if not results:
        return metrics
    tokens = max(1.0, sum(result.sums.get("tokens", 0.0) for result in results))

    def mean(name: str) -> float:
        return sum(result.sums.get(name, 0.0) for result in results) / tokens

    metrics["tokens/trained"] = tokens
    metrics["loss"] = sum(result.loss for result in results) / len(results)
    metrics["grad_norm"] = sum(result.grad_norm for result in results) / len(results)
    metrics["entropy"] = mean("entropy")
    metrics["kl/mean"] = mean("kl")
    metrics["clip_frac/low"], metrics["clip_frac/high"] = mean("clip_low"), mean("clip_high")
    metrics["ratio/mean"] = mean("ratio")
    metrics["ratio/max_update_dev"] = max(result.sums.get("max/ratio_dev", 0.0) for result in results)
    mixed = [sums for result in results for sums in result.also if "nll" in sums]
    if mixed:
        rows = combine(mixed)
        metrics["pretraining/nll"] = rows.get("nll", 0.0) / max(1.0, rows["tokens"])
    first = results[0].sums
    metrics["ratio/max_dev"] = math.expm1(min(50.0, first.get("max/rollout_gap", 0.0)))
    metrics["ratio/rollout_gap"] = first.get("rollout_gap", 0.0) / max(1.0, first.get("tokens", 0.0))
    return metrics
