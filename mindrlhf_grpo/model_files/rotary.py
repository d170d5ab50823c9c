"""Rotary position embedding (https://arxiv.org/abs/2104.09864): the frequencies with each kind of scaling.

Frequencies are computed once, in float32 as transformers computes them, so that far positions agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """The rotation of the first ``size`` numbers of a head.

    Attributes:
        frequencies: ``size / 2`` radians per position.
        kind: the scaling by its name in ``config.json``; one that is not in ``SCALINGS`` is not described here, and
            ``frequencies`` are unscaled.
        amplitude: factor of cosine and sine.
        interleaved: neighbours (2i, 2i + 1) are rotated together, instead of halves (i, i + size / 2).
        score_factor: factor of the scale of attention.
    """

    size: int
    frequencies: tuple[float, ...]
    kind: str = "default"
    amplitude: float = 1.0
    interleaved: bool = False
    score_factor: float = 1.0


def read_rotary(config: Mapping[str, Any], head_size: int, *, rotated_part: float, interleaved: bool) -> Rotary:
    """The rotation from ``config.json``: ``rope_parameters``, or the older ``rope_theta`` with ``rope_scaling``."""
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    part = float(settings.get("partial_rotary_factor") or config.get("partial_rotary_factor") or rotated_part)
    settings.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    kind = settings.get("rope_type") or settings.get("type") or "default"
    size = int(head_size * part)
    powers = np.float32(theta) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    if settings.get("factor") is None and kind == "yarn":
        settings["factor"] = config["max_position_embeddings"] / settings["original_max_position_embeddings"]
    frequencies = SCALINGS.get(kind, _unscaled)(1 / powers, settings, theta)
    amplitude, score_factor = _yarn_factors(settings) if kind == "yarn" else (1.0, 1.0)
    return Rotary(
        size=size, frequencies=tuple(map(float, frequencies)), kind=kind, amplitude=amplitude, interleaved=interleaved,
        score_factor=score_factor,
    )  # fmt: skip


def _unscaled(frequencies: Floats, settings: Mapping[str, Any], theta: float) -> Floats:
    return frequencies


def _linear(frequencies: Floats, settings: Mapping[str, Any], theta: float) -> Floats:
    """Position interpolation, https://arxiv.org/abs/2306.15595."""
    return frequencies / np.float32(settings["factor"])


def _llama3(frequencies: Floats, settings: Mapping[str, Any], theta: float) -> Floats:
    """Llama 3.1: low frequencies are divided, high ones kept, those between interpolated."""
    factor, low, high = settings["factor"], settings["low_freq_factor"], settings["high_freq_factor"]
    length = settings["original_max_position_embeddings"]
    waves = 2 * math.pi / frequencies
    smooth = (length / waves - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = np.where(waves > length / low, frequencies / factor, np.where(waves < length / high, frequencies, between))
    return scaled.astype(np.float32)


def _yarn(frequencies: Floats, settings: Mapping[str, Any], theta: float) -> Floats:
    """YaRN, https://arxiv.org/abs/2309.00071: interpolated below ``beta_slow`` turns, kept above ``beta_fast``."""
    pairs = len(frequencies)
    length = settings["original_max_position_embeddings"]

    def pair_with(turns: float) -> float:
        return 2 * pairs * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(settings.get("beta_fast") or 32), pair_with(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    high = high + 0.001 if low == high else high
    unscaled = 1 - np.clip((np.arange(pairs, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    return (frequencies / np.float32(settings["factor"]) * (1 - unscaled) + frequencies * unscaled).astype(np.float32)


def _yarn_factors(settings: Mapping[str, Any]) -> tuple[float, float]:
    """The factor of cosine and sine, and that of the attention scores (DeepSeek's ``mscale_all_dim``)."""
    factor, mscale, everywhere = settings["factor"], settings.get("mscale"), settings.get("mscale_all_dim")
    amplitude = settings.get("attention_factor")
    if amplitude is None:
        amplitude = _mscale(factor, mscale) / _mscale(factor, everywhere) if mscale and everywhere else _mscale(factor)
    return float(amplitude), _mscale(factor, everywhere) ** 2 if everywhere else 1.0


def _mscale(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


SCALINGS: dict[str, Callable[[Floats, Mapping[str, Any], float], Floats]] = {
    "default": _unscaled, "linear": _linear, "llama3": _llama3, "yarn": _yarn,
}  # fmt: skip
