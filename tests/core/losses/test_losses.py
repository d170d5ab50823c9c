"""The policy loss and KL estimators against numbers worked out by hand, on NumPy and torch."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.losses import PolicyLoss, kl
from tests.support.loss_cases import (
    ADVANTAGES,
    LN2,
    LOGPS,
    OLD,
    ONES,
    Namespace,
    finite_differences,
    numpy_namespace,
    torch_namespace,
)

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(
    params=[
        "numpy",
        pytest.param("torch.float64", marks=needs_torch),
        pytest.param("torch.float32", marks=needs_torch),
    ]
)
def ns(request: pytest.FixtureRequest) -> Namespace:
    if request.param == "numpy":
        return numpy_namespace()
    dtype = request.param.removeprefix("torch.")
    return torch_namespace(dtype, 1e-12 if dtype == "float64" else 1e-6)


MASK = np.ones((2, 3))


def tensors(ns: Namespace, **arrays: Any) -> dict[str, Any]:
    given = {"mask": MASK, "weights": ONES, "advantages": ADVANTAGES, "old_logps": OLD} | arrays
    return {name: ns.array(values) for name, values in given.items() if values is not None}


def test_clipped_surrogate(ns: Namespace) -> None:
    # A = 2: -min(3, 2.4), -2.2, -min(1, 1.6); A = -1: -min(-1.5, -1.2), -min(-.5, -.8), -min(-4, -1.2)
    loss, sums = PolicyLoss()(ns.xp, ns.array(LOGPS), tensors(ns))
    ns.close(loss, -2.4 - 2.2 - 1.0 + 1.5 + 0.8 + 4.0)
    ns.close(sums["ratio"], 9.1)
    ns.close(sums["max/ratio_dev"], 3.0)
    assert float(sums["clip_high"]) == 1
    assert float(sums["clip_low"]) == 1
    assert set(sums) == {"ratio", "clip_low", "clip_high", "max/ratio_dev"}


def test_clip_low_and_clip_high_are_separate(ns: Namespace) -> None:
    loss, sums = PolicyLoss(clip_low=0.4, clip_high=0.6)(ns.xp, ns.array(LOGPS), tensors(ns))
    ns.close(loss, -3.0 - 2.2 - 1.0 + 1.5 + 0.6 + 4.0)
    assert float(sums["clip_high"]) == 0
    assert float(sums["clip_low"]) == 1


def test_dual_clip_bounds_the_loss_of_negative_advantages(ns: Namespace) -> None:
    loss, _ = PolicyLoss(dual_clip=3.0)(ns.xp, ns.array(LOGPS), tensors(ns))
    ns.close(loss, -2.4 - 2.2 - 1.0 + 1.5 + 0.8 + 3.0)


def test_loss_is_the_weighted_sum(ns: Namespace) -> None:
    weights = np.array([[1.0, 10.0, 100.0], [0.5, 0.25, 2.0]])
    loss, _ = PolicyLoss()(ns.xp, ns.array(LOGPS), tensors(ns, weights=weights))
    ns.close(loss, -2.4 - 22.0 - 100.0 + 0.75 + 0.2 + 8.0)


def test_without_old_log_probs_the_ratio_is_one(ns: Namespace) -> None:
    loss, sums = PolicyLoss()(ns.xp, ns.array(LOGPS), tensors(ns, old_logps=None))
    ns.close(loss, -6.0 + 3.0)
    ns.close(sums["ratio"], 6.0)
    assert float(sums["max/ratio_dev"]) == 0
    assert float(sums["clip_low"]) == float(sums["clip_high"]) == 0


def test_log_ratio_clamp(ns: Namespace) -> None:
    far = tensors(ns, old_logps=OLD - 30.0, advantages=-ONES)
    loss, _ = PolicyLoss(log_ratio_clamp=2.0)(ns.xp, ns.array(OLD), far)
    ns.close(loss, 6 * math.exp(2.0))


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", LN2), ("k2", LN2**2 / 2), ("k3", LN2 - 0.5)],
)
def test_kl_in_the_loss(ns: Namespace, estimator: str, expected: float) -> None:
    loss, sums = PolicyLoss(kl_coef=0.1, kl_estimator=estimator)(
        ns.xp, ns.array(LOGPS), tensors(ns, ref_logps=LOGPS - LN2)
    )
    ns.close(loss, 0.7 + 0.1 * 6 * expected)
    ns.close(sums["kl"], 6 * (LN2 - 0.5))  # the metric is k3 whatever the loss uses


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.5, -0.5, 0.0]),
        ("k2", [0.125, 0.125, 0.0]),
        ("k3", [0.10653065971263342, 0.14872127070012819, 0.0]),  # exp(-x) - 1 + x
    ],
)
def test_kl_estimators(ns: Namespace, estimator: str, expected: list[float]) -> None:
    got = kl(ns.xp, ns.array([-1.0, -1.5, -2.0]), ns.array([-1.5, -1.0, -2.0]), estimator)
    ns.close(got, expected)


@pytest.mark.parametrize(("estimator", "expected"), [("k1", [10, -10]), ("k2", [10, 10]), ("k3", [10, 10])])
def test_kl_clamp_bounds_the_estimate(ns: Namespace, estimator: str, expected: list[float]) -> None:
    got = kl(ns.xp, ns.array([0.0, -500.0]), ns.array([-500.0, 0.0]), estimator, 10.0)
    ns.close(got, expected)


def test_without_a_clamp_the_estimate_is_not_bounded(ns: Namespace) -> None:
    ns.close(kl(ns.xp, ns.array([0.0]), ns.array([-50.0]), "k3"), [49.0])


def test_rollout_gap_is_reported_and_carries_no_gradient(ns: Namespace) -> None:
    gap = np.array([[0.1, -0.3, 0.0], [0.0, 0.0, 0.2]])
    loss, sums = PolicyLoss()(ns.xp, ns.array(LOGPS), tensors(ns, rollout_logps=LOGPS + gap))
    ns.close(loss, 0.7)
    ns.close(sums["rollout_gap"], 0.6)
    ns.close(sums["max/rollout_gap"], 0.3)


HOLES = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
EVERYTHING = PolicyLoss(dual_clip=3.0, kl_coef=0.1, log_ratio_clamp=20.0, kl_clamp=10.0)


@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0])
def test_masked_positions_contribute_nothing_whatever_they_hold(ns: Namespace, filler: float) -> None:
    def filled(values: np.ndarray) -> np.ndarray:
        return np.where(HOLES > 0, values, filler)

    clean = {"ref_logps": LOGPS - 0.3, "rollout_logps": LOGPS + 0.1}
    expected, expected_sums = EVERYTHING(ns.xp, ns.array(LOGPS), tensors(ns, mask=HOLES, **clean))
    dirty = {name: filled(values) for name, values in clean.items()}
    dirty |= {"advantages": filled(ADVANTAGES), "old_logps": filled(OLD), "weights": filled(ONES)}
    loss, sums = EVERYTHING(ns.xp, ns.array(filled(LOGPS)), tensors(ns, mask=HOLES, **dirty))
    assert float(loss) == float(expected)
    assert {name: float(value) for name, value in sums.items()} == {
        name: float(value) for name, value in expected_sums.items()
    }


@needs_torch
@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, -1e30])
def test_masked_positions_get_gradient_zero_never_nan(filler: float) -> None:
    ns = torch_namespace("float64", 1e-12)
    logps = ns.array(np.where(HOLES > 0, LOGPS, filler)).requires_grad_()
    loss, _ = EVERYTHING(ns.xp, logps, tensors(ns, mask=HOLES, ref_logps=LOGPS - 0.3))
    loss.backward()
    gradient = logps.grad.numpy()
    assert np.isfinite(gradient).all()
    assert (gradient[HOLES == 0] == 0).all()
    assert (gradient[0, :2] != 0).any()


VARIANTS = [
    PolicyLoss(),
    PolicyLoss(clip_low=0.1, clip_high=0.3, dual_clip=2.0),
    PolicyLoss(kl_coef=0.1, kl_estimator="k1"),
    PolicyLoss(kl_coef=0.1, kl_estimator="k2"),
    PolicyLoss(kl_coef=0.1, kl_estimator="k3", kl_clamp=10.0, log_ratio_clamp=20.0),
]


@needs_torch
@pytest.mark.parametrize("loss", VARIANTS, ids=range(len(VARIANTS)))
def test_gradient_equals_finite_differences_of_the_numpy_loss(loss: PolicyLoss) -> None:
    random = np.random.default_rng(5)
    shape = (4, 6)
    old = -random.exponential(size=shape)
    logps = old + random.normal(scale=0.4, size=shape)
    arrays = {
        "mask": (random.random(shape) < 0.8).astype(np.float64),
        "weights": random.random(shape),
        "advantages": random.normal(size=shape),
        "old_logps": old,
        "ref_logps": old + random.normal(scale=0.3, size=shape),
    }
    expected = finite_differences(loss, logps, arrays)
    ns = torch_namespace("float64", 1e-12)
    leaf = ns.array(logps).requires_grad_()
    value, sums = loss(ns.xp, leaf, {name: ns.array(values) for name, values in arrays.items()})
    value.backward()
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=0, atol=2e-9)
    assert not any(total.requires_grad for total in sums.values())


@needs_torch
def test_on_policy_gradient_is_the_policy_gradient() -> None:
    ns = torch_namespace("float64", 1e-12)
    logps = ns.array(LOGPS).requires_grad_()
    loss, _ = PolicyLoss()(ns.xp, logps, tensors(ns, old_logps=None))
    loss.backward()
    ns.close(logps.grad, -ADVANTAGES)


@needs_torch
def test_kl_on_dead_groups_pulls_unless_they_are_masked() -> None:
    """Advantage 0 does not mean gradient 0: with the KL in the loss a dead group still moves to the reference."""
    ns = torch_namespace("float64", 1e-12)
    for mask, kl_coef, moved in ((MASK, 0.1, True), (0 * MASK, 0.1, False), (MASK, 0.0, False)):
        logps = ns.array(LOGPS).requires_grad_()
        given = tensors(ns, advantages=0 * ONES, mask=mask, old_logps=None, ref_logps=LOGPS - LN2)
        loss, sums = PolicyLoss(kl_coef=kl_coef)(ns.xp, logps, given)
        loss.backward()
        ns.close(logps.grad, (0.1 * 0.5 if moved else 0.0) * ONES)  # d k3 / dx = 1 - exp(-x) = 1/2
        ns.close(sums["kl"], (6 if mask.any() else 0) * (LN2 - 0.5))


@needs_torch
def test_loss_compiles_without_a_graph_break() -> None:
    import torch

    ns = torch_namespace("float32", 1e-6)
    given = tensors(ns, ref_logps=LOGPS - LN2, rollout_logps=LOGPS)
    compiled = torch.compile(lambda logps: EVERYTHING(ns.xp, logps, given), fullgraph=True, backend="eager")
    loss, sums = compiled(ns.array(LOGPS))
    expected, expected_sums = EVERYTHING(ns.xp, ns.array(LOGPS), given)
    ns.close(loss, expected)
    assert list(sums) == list(expected_sums)


def test_what_is_missing_or_misshapen_is_named(ns: Namespace) -> None:
    with pytest.raises(ValueError, match="no ref_logps"):
        PolicyLoss(kl_coef=0.1)(ns.xp, ns.array(LOGPS), tensors(ns))
    with pytest.raises(ValueError, match=r"logps \(2, 2\) and mask \(2, 3\)"):
        PolicyLoss()(ns.xp, ns.array(LOGPS[:, :2]), tensors(ns))
    with pytest.raises(ValueError, match="'k4' is unknown; there are k1, k2, k3"):
        kl(ns.xp, ns.array([0.0]), ns.array([0.0]), "k4")


def test_loss_is_a_value() -> None:
    assert replace(PolicyLoss(), clip_high=0.28) == PolicyLoss(clip_high=0.28)
    with pytest.raises(AttributeError):
        PolicyLoss().clip_low = 0.1
