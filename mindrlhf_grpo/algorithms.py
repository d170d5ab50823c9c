"""An algorithm by name: which advantages, which loss, what they need. A preset fills in a peer's numbers.

``resolve`` turns the configuration into a ``Plan``; trainer and backends know nothing of algorithms beyond it.
A key set in the configuration wins over the algorithm's own value, that over the preset, that over ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .advantages import ESTIMATORS, Estimator, gdpo, kl_penalised, weighted_total
from .backend import Loss
from .batching import dead_groups
from .config import AlgorithmConfig
from .errors import ConfigError
from .losses import PolicyLoss, kl
from .nearest import did_you_mean
from .types import FloatArray, IntArray
from .xp import NUMPY


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The numbers of one code base on its GRPO path; the defaults here are ours.

    Attributes:
        clip_high: None: the same as ``clip_low``.
        log_ratio_clamp: bound on |logps - old_logps|; 0: off.
        kl_clamps: bound on the KL estimate, by estimator; absent: off.
        count_masked_rows: whether a completion without a trained token counts as a sequence of the mean.
        whitening: over what GDPO normalises at the end: completions, or tokens (long answers weigh more).
    """

    adv_eps: float = 1e-4
    std_ddof: Literal[0, 1] = 1
    clip_low: float = 0.2
    clip_high: float | None = None
    dual_clip: float = 0.0
    aggregation: str = "token_mean"
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    kl_in: str = "loss"
    log_ratio_clamp: float = 0.0
    kl_clamps: tuple[tuple[str, float], ...] = ()
    count_masked_rows: bool = False
    whitening: Literal["samples", "tokens"] = "samples"


OURS = Preset()
CLAMP_ALL = (("k1", 10.0), ("k2", 10.0), ("k3", 10.0))
PRESETS: dict[str, Preset] = {
    "trl": Preset(count_masked_rows=True),
    "verl": Preset(
        adv_eps=1e-6, clip_high=0.2, dual_clip=3.0, log_ratio_clamp=20.0, kl_clamps=(("k3", 10.0),), whitening="tokens"
    ),
    "openrlhf": Preset(
        adv_eps=1e-9, clip_high=0.2, kl_coef=0.01, kl_estimator="k1", kl_in="reward", log_ratio_clamp=20.0,
        kl_clamps=CLAMP_ALL,
    ),
    "mindrlhf": Preset(adv_eps=1e-6, clip_high=0.2, aggregation="sequence_mean", kl_coef=0.01),
    "lightrft": Preset(
        adv_eps=1e-9, aggregation="sequence_mean", kl_coef=0.01, kl_estimator="k1", kl_in="reward", kl_clamps=CLAMP_ALL
    ),
}  # fmt: skip

# What an algorithm itself prescribes, over any preset: Dr. GRPO is defined by its constant denominator.
OWN_AGGREGATION = {"dr_grpo": "constant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The numbers an algorithm runs with: every null of the configuration filled."""

    adv_eps: float
    std_ddof: int
    clip_low: float
    clip_high: float
    dual_clip: float
    aggregation: str
    kl_coef: float
    kl_estimator: str
    kl_in: str
    log_ratio_clamp: float
    kl_clamp: float
    count_masked_rows: bool
    whitening: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a trainer needs to know of an algorithm.

    Attributes:
        estimator: the advantage function of ``advantages.py``.
        needs: ``reference`` (its log-probs) and ``old_logps`` (those of the policy before the first update).
    """

    name: str
    settings: Settings
    estimator: Estimator
    loss: Loss
    needs: frozenset[str]

    def check(self, group_size: int) -> None:
        """Raises ConfigError for groups of one: nothing to compare with, so every advantage would be 0."""
        if group_size < 2:
            raise ConfigError(
                f"rollout.group_size is {group_size}: algorithm.name {self.name!r} compares the completions of a "
                "prompt and needs at least 2"
            )

    def advantages(
        self,
        values: FloatArray,
        weights: FloatArray,
        groups: IntArray,
        lengths: IntArray | None = None,
        *,
        kl_sums: FloatArray | None = None,
    ) -> NDArray[np.float64]:
        """Advantages ``[N, K]`` of the global batch.

        Args:
            values, weights, groups: ``[N, F, K]``, ``[F]``, ``[N]``, see :func:`advantages.grpo`.
            lengths: tokens of each completion ``[N]``; only ``whitening: tokens`` reads them.
            kl_sums: KL of each completion ``[N]`` from :meth:`kl_sums`, needed where the KL is part of the reward.
        """
        settings = self.settings
        if self.kl_in_reward:
            if kl_sums is None:
                raise ValueError("the KL is part of the reward: kl_sums are needed")
            total = kl_penalised(weighted_total(values, weights), kl_sums, settings.kl_coef)
            values, weights = total[:, None, :], np.ones(1)
        if self.estimator is gdpo and settings.whitening == "tokens":
            if lengths is None:
                raise ValueError("whitening over tokens needs the lengths of the completions")
            return gdpo(values, weights, groups, eps=settings.adv_eps, ddof=settings.std_ddof, token_counts=lengths)
        return self.estimator(values, weights, groups, eps=settings.adv_eps, ddof=settings.std_ddof)

    def dead_groups(self, values: FloatArray, weights: FloatArray, groups: IntArray) -> NDArray[np.bool_]:
        """Groups without a difference in rewards ``[M]``: in their total, or for GDPO in every component."""
        return dead_groups(values if self.estimator is gdpo else weighted_total(values, weights), groups)

    @property
    def kl_in_reward(self) -> bool:
        return self.settings.kl_coef > 0 and self.settings.kl_in == "reward"

    def kl_sums(self, logps: FloatArray, ref_logps: FloatArray, lengths: IntArray) -> NDArray[np.float64]:
        """KL to the reference of each completion ``[N]``, summed over its tokens, from log-probs ``[N, T]``."""
        inside = np.arange(logps.shape[1])[None, :] < lengths[:, None]
        current, reference = (np.where(inside, x, 0.0).astype(np.float64) for x in (logps, ref_logps))
        estimate = kl(NUMPY, current, reference, self.settings.kl_estimator, self.settings.kl_clamp)
        return np.asarray(estimate.sum(axis=1), dtype=np.float64)


def resolve(config: AlgorithmConfig) -> Plan:
    """The algorithm a configuration asks for.

    Raises:
        ConfigError: unknown name or preset, or settings that do not go together.
    """
    if config.name not in ESTIMATORS:
        raise ConfigError(unknown("algorithm.name", config.name, list(ESTIMATORS)))
    if config.preset is not None and config.preset not in PRESETS:
        raise ConfigError(unknown("algorithm.preset", config.preset, list(PRESETS)))
    settings = fill_settings(config, OURS if config.preset is None else PRESETS[config.preset])
    check_settings(config.name, settings)
    in_loss = settings.kl_in == "loss"
    loss = PolicyLoss(
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
        kl_coef=settings.kl_coef if in_loss else 0.0,
        kl_estimator=settings.kl_estimator,
        log_ratio_clamp=settings.log_ratio_clamp,
        kl_clamp=settings.kl_clamp,
    )
    needs = {"reference"} if settings.kl_coef > 0 else set()
    if config.inner_epochs * config.updates_per_batch > 1 or (settings.kl_coef > 0 and not in_loss):
        needs.add("old_logps")
    return Plan(
        name=config.name, settings=settings, estimator=ESTIMATORS[config.name], loss=loss, needs=frozenset(needs)
    )


def fill_settings(config: AlgorithmConfig, preset: Preset) -> Settings:
    """Explicit keys, then the algorithm's own, then the preset's."""
    own = {"aggregation": OWN_AGGREGATION[config.name]} if config.name in OWN_AGGREGATION else {}
    filled = {field.name: getattr(preset, field.name) for field in fields(preset)} | own
    explicit = {name: getattr(config, name, None) for name in filled}
    filled |= {name: value for name, value in explicit.items() if value is not None}
    if filled["clip_high"] is None:
        filled["clip_high"] = filled["clip_low"]
    clamps = dict(filled.pop("kl_clamps"))
    return Settings(**filled, kl_clamp=clamps.get(filled["kl_estimator"], 0.0))


def check_settings(name: str, settings: Settings) -> None:
    """Refuse combinations that would not do what they say."""
    if 0 < settings.dual_clip <= 1:
        raise ConfigError(f"algorithm.dual_clip is {settings.dual_clip}: it must be above 1, or 0 for off")
    if name == "gdpo" and settings.kl_coef > 0 and settings.kl_in == "reward":
        raise ConfigError(
            "algorithm.kl_in: reward does not go with algorithm.name: gdpo, which has no single reward to take the KL "
            "from; set algorithm.kl_in: loss, or algorithm.kl_coef: 0"
        )


def unknown(key: str, value: str, known: list[str]) -> str:
    """Message for a name that does not exist, with the nearest one that does."""
    return f"{key} {value!r} is unknown{did_you_mean(value, known)}; there are {', '.join(known)}"
