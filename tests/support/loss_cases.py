"""Small inputs for losses, the namespaces they are tried over, and every policy loss with its value by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from mindrlhf_grpo.algorithms.online.cispo import CispoPolicyLoss
from mindrlhf_grpo.algorithms.online.cpgd import CpgdPolicyLoss
from mindrlhf_grpo.algorithms.online.gmpo import GeometricPolicyLoss
from mindrlhf_grpo.algorithms.online.gspo import SequencePolicyLoss
from mindrlhf_grpo.algorithms.online.rank_grpo import ItemPolicyLoss
from mindrlhf_grpo.algorithms.online.sapo import SapoPolicyLoss
from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.algorithms.registry import POLICY_LOSSES
from mindrlhf_grpo.config.algorithm import AlgorithmConfig
from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.losses import xp as numpy_xp
from tests.support.repository import ROOT

RATIOS = np.array([[1.5, 1.1, 0.5], [1.5, 0.5, 4.0]])
OLD = np.array([[-1.0, -0.5, -2.0], [-0.25, -3.0, -1.5]])
LOGPS = OLD + np.log(RATIOS)
ADVANTAGES = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]])
ONES = np.ones((2, 3))
ENTROPIES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
SEGMENTS = np.array([[0, 0, -1], [1, 0, 1]], np.int32)
LN2 = math.log(2.0)


@dataclass(frozen=True)
class Namespace:
    """An array library, how it makes an array, and how exact it is."""

    xp: Any
    array: Callable[[Any], Any]
    tolerance: float

    def close(self, got: Any, expected: Any) -> None:
        np.testing.assert_allclose(np.asarray(got), expected, rtol=self.tolerance, atol=self.tolerance)


def numpy_namespace() -> Namespace:
    return Namespace(numpy_xp, lambda values: np.asarray(values, np.float64), 1e-12)


def torch_namespace(dtype: str, tolerance: float) -> Namespace:
    import torch
    from mindrlhf_grpo_torch import xp

    torch.set_num_threads(1)
    return Namespace(xp, lambda values: torch.tensor(np.asarray(values), dtype=getattr(torch, dtype)), tolerance)


def holding(held: list[np.ndarray], *, replay: bool) -> Any:
    """NumPy's namespace, in which what is held constant really is: recorded in one call, replayed in the next ones."""
    names = {name: getattr(numpy_xp, name) for name in numpy_xp.NAMES}
    place = iter(held)

    def stop_gradient(x: np.ndarray) -> np.ndarray:
        if replay:
            return next(place)
        held.append(x)
        return x

    return SimpleNamespace(**names | {"stop_gradient": stop_gradient})


def finite_differences(loss: Any, outputs: np.ndarray, arrays: dict[str, np.ndarray], step: float = 1e-6) -> np.ndarray:
    """Gradient of a loss by its outputs, from its values alone."""
    held: list[np.ndarray] = []
    loss(holding(held, replay=False), outputs, arrays)
    slopes = np.zeros(outputs.shape)
    for index in np.ndindex(outputs.shape):
        shift = np.zeros(outputs.shape)
        shift[index] = step
        above, _ = loss(holding(held, replay=True), outputs + shift, arrays)
        below, _ = loss(holding(held, replay=True), outputs - shift, arrays)
        slopes[index] = (above - below) / (2 * step)
    return slopes


@dataclass(frozen=True)
class Case:
    """A loss, what it is given besides the arrays above, and what it must come to.

    Attributes:
        clipped: tokens where the lower and where the upper bound is active; None: not of interest.
    """

    loss: PolicyLoss
    value: float
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    clipped: tuple[int, int] | None = None

    def tensors(self) -> dict[str, np.ndarray]:
        given = {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES, "old_logps": OLD}
        return given | self.arrays


ENTROPY = {"entropies": ENTROPIES}
ITEMS = {"segments": SEGMENTS}
REFERENCE = {"ref_logps": LOGPS - LN2}  # x = ln 2 at every token

# Ratios 1.5, 1.1, .5 with A = 2 and 1.5, .5, 4 with A = -1. Each number is worked out in the comment, never by the code.
CASES: dict[str, Case] = {
    # -2.4 - 2.2 - 1 | 1.5 + .8 + 4
    "ppo": Case(PolicyLoss(), 0.7, clipped=(1, 1)),
    # 4 becomes 2 where it is not clipped: .7 - 4 + 2
    "ppo delta": Case(PolicyLoss(delta=2.0), -1.3),
    # 4 is bounded by c |A| = 3
    "ppo dual clip": Case(PolicyLoss(dual_clip=3.0), -0.3),
    # .7 - .1 (1 + 2 + ... + 6)
    "ppo entropy": Case(PolicyLoss(entropy_coef=0.1), -1.4, ENTROPY),
    # .7 + .1 · 6 ln 2
    "kl abs": Case(PolicyLoss(kl_coef=0.1, kl_estimator="abs"), 1.1158883083359672, REFERENCE),
    # .7 + .1 · 6 (ln 2 - 1/2)
    "kl k3+": Case(PolicyLoss(kl_coef=0.1, kl_estimator="k3+"), 0.8158883083359672, REFERENCE),
    # .7 + .1 · 9.1 (ln 2 - 1/2)
    "kl r*k3": Case(PolicyLoss(kl_coef=0.1, kl_estimator="r*k3"), 0.8757639343095501, REFERENCE),
    # s = .825^(1/3) = .93789, 3^(1/3) = 1.44225, neither clipped on its side: -6 s | 3 s
    "gspo": Case(SequencePolicyLoss(), -1.3005836551784862, clipped=(0, 0)),
    # log s = .3662 becomes .1 in row 1: -6 · .93789 | 3 e^.1
    "gspo bounded": Case(SequencePolicyLoss(log_ratio_max=0.1), -2.3118196118737675),
    # A = -1 | 2: the bounds .9997 and 1.0004 hold both: 3 · .9997 | -6 · 1.0004
    "gspo clipped": Case(
        SequencePolicyLoss(gradient="token"),
        -3.0033,
        {"advantages": np.array([[-1.0] * 3, [2.0] * 3])},
        clipped=(3, 3),
    ),
    # item 0 of row 0: sqrt(1.65) clipped to 1.2; its last token is in no item: .5; row 1: sqrt(6), .5 clipped, sqrt(6)
    "item": Case(ItemPolicyLoss(items=2), -0.10102051443364402, ITEMS, clipped=(1, 2)),
    # no segment below items: one bin, as gspo with the bounds .8 and 1.2
    "item overflow": Case(ItemPolicyLoss(items=1), -1.3005836551784862, {"segments": 0 * SEGMENTS + 5}),
    # weights 1.2, 1.1, .8 | 1.2, .8, 1.2
    "cispo": Case(CispoPolicyLoss(low=0.8, high=1.2), 3.721830452492513, clipped=(2, 3)),
    # weights 1.2, 1.1, .5 | 1.2, .5, 1.2
    "cispo no floor": Case(CispoPolicyLoss(low=0.0, high=1.2), 3.2138862983245295, clipped=(0, 3)),
    # weights .2: 0.2 (-2 Σ logps | + Σ logps)
    "cispo trl's default": Case(CispoPolicyLoss(low=0.0, high=0.2), 0.7466712147926043, clipped=(0, 6)),
    # -8 (σ(.5) + σ(.1) + σ(-.5)) | 4/1.05 (σ(.525) + σ(-.525) + σ(3.15))
    "sapo": Case(SapoPolicyLoss(), -4.73732408345234, clipped=(0, 0)),
    # logs .2, .0953, -.6931 | .4055, -.2, 1.3863
    "gmpo": Case(GeometricPolicyLoss(clip_low=0.2, clip_high=0.2), -0.1550402561755293, clipped=(1, 1)),
    # -2 (ln 1.2 + ln 1.1 + ln .5) | ln 1.5 + ln .8 + ln 4
    "cpgd": Case(CpgdPolicyLoss(), 2.3996468058371767, clipped=(1, 1)),
    # and half of Σ r - 1 - ln r, as a line of slope .2 above r = 1.2
    "cpgd drift": Case(CpgdPolicyLoss(drift_coef=0.5), 2.7866825519994634),
}

# Losses without a literal value: a new one is in every property test and in MindSpore's compiler without an entry here.
USER_LOSSES = ("function:plain_gradient", "class:BoundedWeight", "without a skeleton:WithoutSkeleton")
OTHERS: dict[str, Any] = {
    **{f"{name} by default": loss() for name, loss in POLICY_LOSSES.items()},
    **{
        f"a user's {kind}": resolve(AlgorithmConfig(loss=f"{ROOT / 'tests/core/losses/user_losses.py'}:{thing}")).loss
        for kind, thing in (entry.split(":") for entry in USER_LOSSES)
    },
}
