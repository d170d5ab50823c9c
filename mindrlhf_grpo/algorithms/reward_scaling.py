"""Bounds and running normalisation of rewards, and of the advantages that come of them. Legend: N completions, T tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import Comm
from ..config.algorithm import ScalingConfig
from ..types import Batch

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
        whole, step = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + step**2 * self.count * count / whole
        self.mean += step * count / whole
        self.count = whole

    def advantages(self, batch: Batch, comm: Comm) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Advantages ``[n, T]`` over the trained tokens of all ranks brought to mean 0 and variance 1, then within bounds."""
        settings, inside = self.settings, batch.mask > 0
        wide = batch.advantages.astype(np.float64)
        if settings.whiten:
            everywhere = np.concatenate(comm.gather_objects(wide[inside]))
            if len(everywhere):
                wide = np.where(inside, (wide - everywhere.mean()) / (everywhere.std() + EPS), wide)
        figures = {}
        if settings.advantage_clip:
            outside = np.concatenate(comm.gather_objects(np.abs(wide[inside]) > settings.advantage_clip))
            wide = np.clip(wide, -settings.advantage_clip, settings.advantage_clip)
            figures["advantage/clipped_frac"] = float(outside.mean()) if len(outside) else 0.0
        return wide.astype(np.float32), figures

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, saved: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.count, self.mean, self.squares = (float(saved[name]) for name in ("count", "mean", "squares"))
