"""Metrics under SafeWork's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rewards import RULES

FIGURES = {
    "kl": "kl/mean",
    "policy_loss": "loss",
    "critic_loss": "critic/loss",
    "actor_lr": "lr",
    "grad_norm": "grad_norm",
    "reward_clip_frac": "reward/clipped_frac",
    "advantage_clip_frac": "advantage/clipped_frac",
    "dynamic_sampling/rounds": "generation_rounds",
}
ACCURACY = ("rule", "gsm8k_rule", "geo3k_rule")


def metrics(
    rewards: Mapping[str, NDArray[np.float64]],
    total: NDArray[np.float64],
    lengths: NDArray[np.int64],
    prompt_lengths: NDArray[np.int64],
    label: Sequence[str],
    figures: Mapping[str, float],
    advantages: Any = None,
    *,
    component: str = "routed",
    dynamic_sampling: bool = True,
) -> dict[str, float]:
    """Return the metrics of one step; means are over the rows that a component applies to, and components are weighted.

    Args:
        component: name of the routed reward among the components.
        dynamic_sampling: whether the run drops groups without a difference; if not, all are kept.
    """
    parts = {
        name.removeprefix(f"{component}/"): values
        for name, values in rewards.items()
        if name.startswith(f"{component}/")
    }
    judges = {name: values for name, values in parts.items() if name not in ("format", "missing", *RULES)}
    result = {
        "reward": mean(total),
        "format_reward": mean(parts.get("format", ())),
        "accuracy_reward": mean([parts[name] for name in ACCURACY if name in parts]),
        "rule_reward": mean([parts[name] for name in RULES if name in parts]),
        "model_reward": mean(list(judges.values())),
        "response_length": mean(lengths),
        "total_length": mean(lengths + prompt_lengths),
        "return": mean(total),
        **{f"reward/{name}/mean": mean(values) for name, values in judges.items()},
        **{f"reward_by_label/{one}": mean(total[np.asarray(label) == one]) for one in sorted(set(label))},
        **{ours: figures[core] for ours, core in FIGURES.items() if core in figures},
    }
    if "dead_group_frac" in figures:
        result["dynamic_sampling/kept_ratio"] = 1.0 - dynamic_sampling * figures["dead_group_frac"]
    if advantages is not None:
        result |= {"advantages_mean": mean(advantages), "advantages_std": float(np.nanstd(advantages))}
    return {name: value for name, value in result.items() if np.isfinite(value)}


def mean(values: Any) -> float:
    """Return the mean of the finite values; NaN without any."""
    array = np.asarray(values, np.float64)
    present = array[np.isfinite(array)]
    return float(present.mean()) if present.size else float("nan")
