"""The defaults of other code bases, by their names, for configuration keys that are null.

Facts from the peers' public sources, 2026-08 or earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ..advantages import Whitening
from ..advantages.tokens import WhitenForm

Arguments = Mapping[str, float | str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The numbers of one code base on its GRPO path; the defaults here are ours.

    Attributes:
        clip_high: None: the same as ``clip_low``.
        log_ratio_clamp: bound on |logps - old_logps|; 0: off.
        kl_clamps: bound on the KL estimate, by estimator; absent: off.
        count_masked_rows: a completion without a trained token counts as a sequence of the mean.
        whitening: GDPO's last step, over completions, or over tokens (long answers weigh more).
        token_whitening: the peer whose whitening of token advantages is used, see ``advantages.whiten_tokens``.
        losses: arguments of losses, by their names.
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
    whitening: Whitening = "samples"
    token_whitening: WhitenForm = "verl"
    losses: Mapping[str, Arguments] = field(default_factory=lambda: MappingProxyType({}))


OURS = Preset()
CLAMP_ALL = (("k1", 10.0), ("k2", 10.0), ("k3", 10.0))
PRESETS: dict[str, Preset] = {
    "trl": Preset(count_masked_rows=True, losses={"cispo": {"low": 0.0, "high": 5.0}, "gspo": {"log_ratio_max": 0.0}}),
    "verl": Preset(
        adv_eps=1e-6, clip_high=0.2, dual_clip=3.0, log_ratio_clamp=20.0, kl_clamps=(("k3", 10.0),), whitening="tokens",
        losses={"cispo": {"low": 0.8, "high": 1.2}, "gspo": {"gradient": "token"}, "gmpo": {"clip_low": 0.2, "clip_high": 0.2}},
    ),
    "openrlhf": Preset(
        adv_eps=1e-9, clip_high=0.2, kl_coef=0.01, kl_estimator="k1", kl_in="reward", log_ratio_clamp=20.0,
        kl_clamps=CLAMP_ALL, token_whitening="openrlhf", losses={"gspo": {"log_ratio_max": 0.0}},
    ),
    "mindrlhf": Preset(adv_eps=1e-6, clip_high=0.2, aggregation="sequence_mean", kl_coef=0.01),
    "lightrft": Preset(
        adv_eps=1e-9, aggregation="sequence_mean", kl_coef=0.01, kl_estimator="k1", kl_in="reward", kl_clamps=CLAMP_ALL
    ),
}  # fmt: skip
