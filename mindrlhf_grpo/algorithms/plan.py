"""An algorithm with its numbers: what a configuration comes to. A preset fills in a peer's numbers.

``resolve`` turns the configuration into a ``Plan``; trainers and backends know nothing of algorithms beyond it. A key
set in the configuration wins over what the algorithm prescribes, that over the preset, that over our default.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..advantages import EstimatorInputs, Whitening, estimate, kl_penalised, weighted_total
from ..advantages.tokens import WhitenForm
from ..backend import Loss
from ..batches.online import dead_groups
from ..config.algorithm import AlgorithmConfig, ReturnsConfig
from ..errors import ConfigError
from ..losses import kl
from ..losses.xp import NUMPY
from ..types import FloatArray, IntArray
from .algorithm import Algorithm
from .corrections import Correction
from .kl_control import KlControl
from .policy_losses import field_types, find_loss, make_loss
from .presets import OURS, PRESETS, Preset
from .references import ALGORITHM, load, unknown
from .registry import ALGORITHMS, POLICY_LOSSES
from .user_defined import check_loss, user_algorithm


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
    whitening: Whitening
    token_whitening: WhitenForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An algorithm with its numbers, as a trainer uses it.

    Attributes:
        needs: ``reference`` (its log-probs), ``old_logps`` (those of the policy before the first update), ``critic``,
            ``greedy``.
        correction: of the difference between engine and policy; None: not applied.
        top_fraction: share of the most uncertain tokens that are trained; ``count_kept``: alone in the denominators.
    """

    name: str
    algorithm: Algorithm
    settings: Settings
    loss: Loss
    needs: frozenset[str]
    returns: ReturnsConfig
    correction: Correction | None
    top_fraction: float
    count_kept: bool
    kl_control: KlControl

    def check(self, group_size: int) -> None:
        """Raises ConfigError for groups of one where completions are compared: every advantage would be 0."""
        if group_size < self.algorithm.group_size:
            raise ConfigError(
                f"rollout.group_size is {group_size}: algorithm.name {self.name!r} compares the completions of a "
                f"prompt and needs at least {self.algorithm.group_size}"
            )

    def advantages(
        self,
        values: FloatArray,
        weights: FloatArray,
        groups: IntArray,
        lengths: IntArray | None = None,
        *,
        kl_sums: FloatArray | None = None,
        kl_coef: float | None = None,
        baselines: FloatArray | None = None,
    ) -> NDArray[np.float64]:
        """Advantages ``[N, K]`` of the global batch; where tokens differ, the score that goes into their rewards.

        Args:
            values, weights, groups: ``[N, F, K]``, ``[F]``, ``[N]``, see ``advantages.EstimatorInputs``.
            lengths: tokens of each completion ``[N]``.
            kl_sums: KL of each completion ``[N]``, needed where the KL is part of one reward per completion.
            kl_coef: its weight now; None: that of the settings.
            baselines: reward of a greedy completion ``[N]``.
        """
        settings = self.settings
        if self.kl_in_reward and self.algorithm.returns == "same":
            if kl_sums is None:
                raise ValueError("the KL is part of the reward: kl_sums are needed")
            coef = settings.kl_coef if kl_coef is None else kl_coef
            total = kl_penalised(weighted_total(values, weights), kl_sums, coef)
            values, weights = total[:, None, :], np.ones(1)
        inputs = EstimatorInputs(
            values=values, weights=weights, groups=groups, lengths=lengths, baselines=baselines,
            eps=settings.adv_eps, ddof=settings.std_ddof, whitening=settings.whitening,
        )  # fmt: skip
        return estimate(self.algorithm.estimator, inputs)

    def dead_groups(
        self, values: FloatArray, weights: FloatArray, groups: IntArray, *, tolerance: float = 0.0
    ) -> NDArray[np.bool_]:
        """Groups without a difference in rewards ``[M]``: in their total, or in every component if these are compared."""
        if self.algorithm.group_size < 2:
            return np.zeros(len(np.unique(groups)), np.bool_)
        compared = values if self.algorithm.per_component else weighted_total(values, weights)
        return dead_groups(compared, groups, tolerance=tolerance)

    @property
    def kl_in_reward(self) -> bool:
        return self.settings.kl_coef > 0 and self.settings.kl_in == "reward"

    def kl_tokens(
        self, old_logps: FloatArray | None, ref_logps: FloatArray | None, lengths: IntArray
    ) -> NDArray[np.float64]:
        """KL of the old policy to the reference at each token ``[N, T]``, 0 past each length.

        Raises:
            ValueError: one of the two log-probs is missing.
        """
        if old_logps is None or ref_logps is None:
            raise ValueError("a KL needs the log-probs of the policy and of the reference")
        inside = np.arange(old_logps.shape[1])[None, :] < lengths[:, None]
        current, reference = (np.where(inside, logps, 0.0).astype(np.float64) for logps in (old_logps, ref_logps))
        return np.asarray(kl(NUMPY, current, reference, self.settings.kl_estimator, self.settings.kl_clamp))


def find_algorithm(name: str) -> Algorithm:
    """The record of a built-in algorithm, or that of a user's record or estimator, checked.

    Raises:
        ConfigError: unknown name, or code that cannot be an algorithm.
    """
    built_in = ALGORITHMS.get(name)
    return built_in if built_in is not None else user_algorithm(load(ALGORITHM, name, ALGORITHMS), name)


def resolve(config: AlgorithmConfig) -> Plan:
    """The algorithm a configuration asks for.

    Raises:
        ConfigError: unknown name or preset, settings that do not go together, or user-defined code that fails on a few
            literal rows.
    """
    algorithm = find_algorithm(config.name)
    if config.preset is not None and config.preset not in PRESETS:
        raise ConfigError(unknown("algorithm.preset", config.preset, list(PRESETS)))
    preset = OURS if config.preset is None else PRESETS[config.preset]
    settings = fill_settings(config, preset, algorithm)
    check_settings(config, settings, algorithm)
    needs = needs_of(config, settings, algorithm)
    return Plan(
        name=config.name,
        algorithm=algorithm,
        settings=settings,
        loss=loss_of(config, preset, settings, algorithm, needs),
        needs=needs,
        returns=config.returns or ReturnsConfig(),
        correction=correction_of(config),
        top_fraction=1.0 if config.entropy is None else config.entropy.top_fraction,
        count_kept=config.entropy is not None and config.entropy.count == "kept",
        kl_control=kl_control(config, settings),
    )


def correction_of(config: AlgorithmConfig) -> Correction | None:
    """The train/rollout correction that is applied. Raises ConfigError for bounds that leave nothing between them."""
    if config.correction is None:
        return None
    try:
        return Correction(**config.correction.model_dump())
    except ValueError as error:
        raise ConfigError(f"algorithm.correction: {error}") from None


def kl_control(config: AlgorithmConfig, settings: Settings) -> KlControl:
    """Fixed, or steered where the configuration has a target."""
    steered = config.kl_control
    if steered is None:
        return KlControl(coef=settings.kl_coef)
    return KlControl(coef=settings.kl_coef, target=steered.target, horizon=steered.horizon)


def loss_of(
    config: AlgorithmConfig, preset: Preset, settings: Settings, algorithm: Algorithm, needs: frozenset[str]
) -> Loss:
    """The policy loss: arguments of the configuration, then its plain keys, then the preset's for this loss."""
    chosen = config.loss is not None
    asked = config.loss if config.loss is not None else loss_name(algorithm)
    arguments = {"name": asked} if isinstance(asked, str) else dict(asked)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("algorithm.loss as a mapping needs a name, like {name: cispo, high: 5.0}")
    plain = {key: getattr(config, key) for key in ("clip_low", "clip_high", "dual_clip")}
    explicit = {key: value for key, value in plain.items() if value is not None}
    common: dict[str, float | str | int] = {
        "clip_low": settings.clip_low,
        "clip_high": settings.clip_high,
        "dual_clip": settings.dual_clip,
        "kl_coef": settings.kl_coef if settings.kl_in == "loss" else 0.0,
        "kl_estimator": settings.kl_estimator,
        "entropy_coef": 0.0 if config.entropy is None else config.entropy.coef,
        "log_ratio_clamp": settings.log_ratio_clamp,
        "kl_clamp": settings.kl_clamp,
    }
    loss_class = find_loss(name) if chosen else algorithm.loss
    loss = make_loss(name, loss_class, {**preset.losses.get(name, {}), **explicit, **arguments}, common)
    if loss_class not in POLICY_LOSSES.values():
        for key in ("kl_coef", "entropy_coef"):
            if common[key] and key not in field_types(loss):
                raise ConfigError(
                    f"algorithm.{key.replace('entropy_coef', 'entropy.coef')} is {common[key]}, which "
                    f"algorithm.loss {name} does not read: it has no field {key}"
                )
        check_loss(loss, name, old_logps="old_logps" in needs)
    return loss


def loss_name(algorithm: Algorithm) -> str:
    """The name of an algorithm's loss in messages and presets."""
    name = getattr(algorithm.loss, "name", "")
    return name if POLICY_LOSSES.get(name) is algorithm.loss else f"of {algorithm.name}"


def needs_of(config: AlgorithmConfig, settings: Settings, algorithm: Algorithm) -> frozenset[str]:
    """Names of the quantities that must be computed before the first update of a batch."""
    needs = set(algorithm.needs)
    if settings.kl_coef > 0:
        needs.add("reference")
    in_reward = settings.kl_coef > 0 and settings.kl_in == "reward"
    uncertain = config.entropy is not None and config.entropy.top_fraction < 1
    if config.inner_epochs * config.updates_per_batch > 1 or in_reward or uncertain or config.correction is not None:
        needs.add("old_logps")
    return frozenset(needs)


def fill_settings(config: AlgorithmConfig, preset: Preset, algorithm: Algorithm) -> Settings:
    """Explicit keys, then what the algorithm prescribes, then the preset's."""
    names = {field.name for field in fields(Settings)} - {"kl_clamp"}
    filled = {name: getattr(preset, name) for name in names} | dict(algorithm.prescribes)
    explicit = {name: getattr(config, name, None) for name in filled}
    filled |= {name: value for name, value in explicit.items() if value is not None}
    if filled["clip_high"] is None:
        filled["clip_high"] = filled["clip_low"]
    return Settings(**filled, kl_clamp=dict(preset.kl_clamps).get(filled["kl_estimator"], 0.0))


def check_settings(config: AlgorithmConfig, settings: Settings, algorithm: Algorithm) -> None:
    """Refuse combinations that would not do what they say."""
    name, in_reward = config.name, settings.kl_coef > 0 and settings.kl_in == "reward"
    if 0 < settings.dual_clip <= 1:
        raise ConfigError(f"algorithm.dual_clip is {settings.dual_clip}: it must be above 1, or 0 for off")
    if in_reward and algorithm.per_component:
        raise ConfigError(
            f"algorithm.kl_in: reward does not go with algorithm.name: {name}, which has no single reward to take the "
            "KL from; set algorithm.kl_in: loss, or algorithm.kl_coef: 0"
        )
    if config.scaling is not None and algorithm.per_component:
        raise ConfigError(
            f"algorithm.scaling scales the sum of the rewards, and algorithm.name: {name} learns from each by itself"
        )
    if config.kl_control is not None and not in_reward:
        raise ConfigError(
            "algorithm.kl_control adapts a KL in the reward: set algorithm.kl_in: reward and a kl_coef above 0"
        )
    if config.returns is not None and algorithm.returns == "same":
        raise ConfigError(
            f"algorithm.returns has no effect on algorithm.name: {name}, whose tokens all get the advantage of their "
            f"completion; it belongs to {', '.join(key for key, a in ALGORITHMS.items() if a.returns != 'same')}"
        )
    if config.reference_sync is not None and settings.kl_coef == 0:
        raise ConfigError(
            "algorithm.reference_sync moves the reference, and there is none: set algorithm.kl_coef above 0"
        )
