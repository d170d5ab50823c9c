"""Bounds and running normalisation of rewards, and of the advantages that come of them. Legend: N completions, T tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.algorithm import ScalingConfig
from ..types import FloatArray

EPS = 1e-8  # added to standard deviations


@dataclass(slots=True)
class RewardScaling:
    """Total rewards over their running standard deviation (perhaps minus the mean), then within bounds.

    The moments are those of all rewards so far, this batch included (sample variance), by Chan's update.
    """

    settings: ScalingConfig
    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def rewards(self, total: NDArray[np.float64]) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Totals of a batch ``[N, K]`` as they are learned from; NaN stays. Moves the moments."""
        settings, scaled = self.settings, np.array(total, np.float64)
        if settings.running_norm:
            self.take_in(total[np.isfinite(total)])
            deviation = math.sqrt(self.squares / max(1.0, self.count - 1.0))
            scaled = (scaled - (self.mean if settings.minus_mean else 0.0)) / (deviation + EPS)
        if not settings.reward_clip:
            return scaled, {}
        outside = np.abs(scaled) > settings.reward_clip
        return np.clip(scaled, -settings.reward_clip, settings.reward_clip), {
            "reward/clipped_frac": float(outside.mean())
        }

    def take_in(self, values: NDArray[np.float64]) -> None:
        """Add values to the moments."""
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        total, step = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + step**2 * self.count * count / total
        self.mean += step * count / total
        self.count = total

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, saved: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.count, self.mean, self.squares = (float(saved[name]) for name in ("count", "mean", "squares"))


def scale_advantages(
    settings: ScalingConfig, advantages: FloatArray, mask: FloatArray, gather: Callable[[Any], list[Any]]
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Bring the advantages ``[n, T]`` of the trained tokens of all ranks to mean 0 and variance 1, then within bounds.

    Args:
        gather: every rank's item, in rank order.
    """
    inside, scaled = mask > 0, advantages.astype(np.float64)
    if settings.whiten:
        all_ranks = np.concatenate(gather(scaled[inside]))
        if len(all_ranks):
            scaled = np.where(inside, (scaled - all_ranks.mean()) / (all_ranks.std() + EPS), scaled)
    metrics = {}
    if settings.advantage_clip:
        outside = np.concatenate(gather(np.abs(scaled[inside]) > settings.advantage_clip))
        scaled = np.clip(scaled, -settings.advantage_clip, settings.advantage_clip)
        metrics["advantage/clipped_frac"] = float(outside.mean()) if len(outside) else 0.0
    return scaled.astype(np.float32), metrics
