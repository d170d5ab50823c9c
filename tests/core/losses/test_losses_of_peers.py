"""Every policy loss and the value loss against numbers worked out by hand; gradients; what holds for all of them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.algorithms.online.cispo import CispoPolicyLoss
from mindrlhf_grpo.algorithms.online.cpgd import CpgdPolicyLoss
from mindrlhf_grpo.algorithms.online.gmpo import GeometricPolicyLoss
from mindrlhf_grpo.algorithms.online.gspo import SequencePolicyLoss
from mindrlhf_grpo.algorithms.online.rank_grpo import ItemPolicyLoss
from mindrlhf_grpo.algorithms.online.sapo import SapoPolicyLoss
from mindrlhf_grpo.algorithms.policy_losses import policy_loss
from mindrlhf_grpo.algorithms.registry import POLICY_LOSSES
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.losses import PolicyLoss, ValueLoss, kl
from mindrlhf_grpo.losses.xp import NUMPY
from tests.support.loss_cases import (
    ADVANTAGES,
    CASES,
    ENTROPIES,
    LN2,
    LOGPS,
    OLD,
    ONES,
    OTHERS,
    SEGMENTS,
    Namespace,
    finite_differences,
    numpy_namespace,
    torch_namespace,
)

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(
    params=[
        "numpy",
        pytest.param("float64", marks=needs_torch),
        pytest.param("float32", marks=needs_torch),
    ]
)
def ns(request: pytest.FixtureRequest) -> Namespace:
    if request.param == "numpy":
        return numpy_namespace()
    return torch_namespace(request.param, 1e-12 if request.param == "float64" else 1e-6)


def given_to(ns: Namespace, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: ns.array(array) for name, array in arrays.items()}


@pytest.mark.parametrize("name", CASES)
def test_value_of_every_loss(ns: Namespace, name: str) -> None:
    case = CASES[name]
    loss, sums = case.loss(ns.xp, ns.array(LOGPS), given_to(ns, case.tensors()))
    ns.close(loss, case.value)
    if case.clipped is not None:
        assert (float(sums["clip_low"]), float(sums["clip_high"])) == case.clipped


def random_arrays(seed: int, *, one_sign: bool = False) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    shape = (4, 6)
    old = -random.exponential(size=shape)
    advantages = random.normal(size=(4, 1)) * (random.random(shape) + 0.1 if one_sign else np.ones(shape))
    arrays = {
        "mask": (random.random(shape) < 0.8).astype(np.float64), "weights": random.random(shape),
        "advantages": advantages, "old_logps": old, "ref_logps": old + random.normal(scale=0.3, size=shape),
        "entropies": random.random(shape), "segments": random.integers(-1, 4, size=shape),
    }  # fmt: skip
    return old + random.normal(scale=0.4, size=shape), arrays


VARIANTS = {
    **{name: case.loss for name, case in CASES.items()},
    **OTHERS,
    "gspo token": SequencePolicyLoss(gradient="token", clip_low=0.2, clip_high=0.2),
    "gmpo of a clamp": GeometricPolicyLoss(log_ratio_clamp=0.3),
    "everything": PolicyLoss(delta=2.0, dual_clip=2.5, kl_coef=0.2, kl_estimator="r*k3", entropy_coef=0.05),
    "cpgd everything": CpgdPolicyLoss(drift_coef=0.3, kl_coef=0.1, kl_estimator="k3+", entropy_coef=0.05),
}


@needs_torch
@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_equals_finite_differences_of_the_numpy_loss(name: str) -> None:
    loss = VARIANTS[name]
    logps, arrays = random_arrays(7)
    ns = torch_namespace("float64", 1e-12)
    leaf = ns.array(logps).requires_grad_()
    value, sums = loss(ns.xp, leaf, given_to(ns, arrays))
    value.backward()
    np.testing.assert_allclose(leaf.grad.numpy(), finite_differences(loss, logps, arrays), rtol=0, atol=5e-9)
    assert not any(total.requires_grad for total in sums.values())
    assert (leaf.grad.numpy()[arrays["mask"] == 0] == 0).all()


@needs_torch
def test_gradient_of_a_sequence_ratio_and_of_its_tokens() -> None:
    """Equal values; by sequence the weights of a completion are averaged over its tokens, by token each keeps its own."""
    ns = torch_namespace("float64", 1e-12)
    slopes = {}
    for gradient in ("sequence", "token"):
        leaf = ns.array(LOGPS).requires_grad_()
        weights = np.array([[1.0, 10.0, 100.0], [0.0, 0.0, 0.0]])
        arrays = {"mask": ONES, "weights": weights, "advantages": ADVANTAGES, "old_logps": OLD}
        value, _ = SequencePolicyLoss(gradient=gradient)(ns.xp, leaf, given_to(ns, arrays))
        value.backward()
        ns.close(value.detach(), -222 * 0.825 ** (1 / 3))
        slopes[gradient] = leaf.grad.numpy()[0]
    ns.close(slopes["sequence"], [-74 * 0.825 ** (1 / 3)] * 3)
    ns.close(slopes["token"], -2 * 0.825 ** (1 / 3) * np.array([1, 10, 100]))


@needs_torch
@pytest.mark.parametrize(
    "loss",
    [
        SequencePolicyLoss(), SequencePolicyLoss(gradient="token"), ItemPolicyLoss(items=2), CispoPolicyLoss(),
        GeometricPolicyLoss(), CpgdPolicyLoss(drift_coef=1.0), SapoPolicyLoss(tau_negative=1.0),
    ],
    ids=lambda loss: type(loss).__name__,
)  # fmt: skip
def test_first_update_is_the_policy_gradient(loss: PolicyLoss) -> None:
    """With ratio 1 every surrogate has the gradient -A / n (here averaged over equal A and weights: -A)."""
    ns = torch_namespace("float64", 1e-12)
    leaf = ns.array(LOGPS).requires_grad_()
    arrays = {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES, "segments": SEGMENTS}
    value, sums = loss(ns.xp, leaf, given_to(ns, arrays))
    value.backward()
    ns.close(leaf.grad, -ADVANTAGES)
    assert float(sums["max/ratio_dev"]) == 0


@needs_torch
def test_slope_of_k3_with_the_gradient_of_k2() -> None:
    ns = torch_namespace("float64", 1e-12)
    for estimator, slope in (("k1", 1.0), ("k2", LN2), ("k3", 0.5), ("k3+", LN2), ("abs", 1.0)):
        leaf = ns.array([-1.0]).requires_grad_()
        kl(ns.xp, leaf, ns.array([-1.0 - LN2]), estimator).sum().backward()
        ns.close(leaf.grad, [slope])


@needs_torch
def test_kl_pulls_towards_the_reference_from_either_side() -> None:
    ns = torch_namespace("float64", 1e-12)
    for estimator in ("k2", "k3", "abs", "k3+", "r*k3"):
        for side in (0.5, -0.5):
            leaf = ns.array(LOGPS).requires_grad_()
            arrays = {"mask": ONES, "weights": ONES, "advantages": 0 * ONES, "ref_logps": LOGPS - side}
            loss, sums = PolicyLoss(kl_coef=0.1, kl_estimator=estimator)(ns.xp, leaf, given_to(ns, arrays))
            loss.backward()
            assert float(loss.detach()) > 0
            assert float(sums["kl"]) > 0
            assert (np.sign(leaf.grad.numpy()) == np.sign(side)).all()  # descent moves logps to the reference


def test_unbiased_kl_is_the_kl_of_the_policy_under_samples_of_the_old_one() -> None:
    old, now, reference = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.4, 0.2])
    estimates = kl(NUMPY, np.log(now), np.log(reference), "r*k3", ratio=now / old)
    assert (old * estimates).sum() == pytest.approx((now * np.log(now / reference)).sum(), rel=1e-12)
    with pytest.raises(ValueError, match="needs the ratio"):
        kl(NUMPY, np.log(now), np.log(reference), "r*k3")


@given(st.integers(0, 2**32), st.sampled_from(sorted(POLICY_LOSSES)))
def test_surrogates_are_linear_in_a_non_negative_factor_of_the_advantages(seed: int, name: str) -> None:
    """So a correction may be multiplied into the advantages: it is then a factor of each token's loss."""
    logps, arrays = random_arrays(seed, one_sign=True)
    random = np.random.default_rng(seed)
    factors = random.random((4, 6)) * 3 * (random.random((4, 6)) < 0.7)
    factors[:, 0] = 1.0  # a row whose advantages are all 0 has no sign
    arrays["mask"][:, 0] = 1.0
    dual = {} if "dual_clip" in POLICY_LOSSES[name].unused else {"dual_clip": 1.5}
    loss = policy_loss(name, {"items": 2} if name == "item" else dual)
    of_advantages, _ = loss(NUMPY, logps, arrays | {"advantages": arrays["advantages"] * factors})
    of_weights, _ = loss(NUMPY, logps, arrays | {"weights": arrays["weights"] * factors})
    assert of_advantages == pytest.approx(of_weights, rel=1e-9, abs=1e-9)


@needs_torch
@pytest.mark.parametrize(
    ("estimator", "of_policy"), [("k2", True), ("k3+", True), ("k3", False), ("k1", False), ("r*k3", True)]
)
def test_expected_gradient_of_a_kl_estimator(estimator: str, of_policy: bool) -> None:
    """Over samples of the policy k2 and k3+ have the gradient of KL(policy || reference), k3 has that of the reverse KL.

    k1 has none. Over samples of an older policy r*k3 has it.
    """
    import torch

    ns = torch_namespace("float64", 1e-12)
    logits = ns.array([0.3, -0.4, 0.9]).requires_grad_()
    reference = torch.log(ns.array([0.4, 0.4, 0.2]))
    logps = torch.log_softmax(logits, 0)
    (wanted,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits, retain_graph=True)
    sampled_by = ns.array([0.5, 0.3, 0.2]) if estimator == "r*k3" else logps.exp().detach()
    estimates = kl(ns.xp, logps, reference, estimator, ratio=logps.exp() / sampled_by)
    (found,) = torch.autograd.grad((sampled_by * estimates).sum(), logits)
    assert np.allclose(found, wanted, rtol=1e-12, atol=1e-12) == of_policy
    if estimator == "k1":
        ns.close(found, [0, 0, 0])


HOLES = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", sorted(POLICY_LOSSES))
def test_masked_positions_contribute_nothing_whatever_they_hold(ns: Namespace, name: str, filler: float) -> None:
    base = policy_loss(name, {"items": 2} if name == "item" else {})
    loss = replace(base, kl_coef=0.1, entropy_coef=0.1)
    clean = {"weights": ONES, "advantages": ADVANTAGES, "old_logps": OLD, "ref_logps": OLD, "entropies": ENTROPIES}
    dirty = {key: np.where(HOLES > 0, array, filler) for key, array in clean.items()}
    rest = {"mask": HOLES, "segments": SEGMENTS}
    expected, expected_sums = loss(ns.xp, ns.array(LOGPS), given_to(ns, clean | rest))
    got, sums = loss(ns.xp, ns.array(np.where(HOLES > 0, LOGPS, filler)), given_to(ns, dirty | rest))
    assert float(got) == float(expected)
    assert {key: float(total) for key, total in sums.items()} == {
        key: float(total) for key, total in expected_sums.items()
    }


@needs_torch
def test_every_loss_compiles_without_a_graph_break() -> None:
    import torch

    ns = torch_namespace("float64", 1e-12)
    arrays = {name: given_to(ns, case.tensors()) for name, case in CASES.items()}

    def values(logps: Any) -> list[Any]:
        return [case.loss(ns.xp, logps, arrays[name])[0] for name, case in CASES.items()]

    found = torch.compile(values, fullgraph=True, backend="eager")(ns.array(LOGPS))
    ns.close([float(value) for value in found], [case.value for case in CASES.values()])


VALUES = np.array([[1.0, 2.0, 3.0]])
RETURNS = np.array([[0.0, 2.5, 1.0]])
OLD_VALUES = np.array([[1.5, 2.0, 2.5]])


def test_value_loss(ns: Namespace) -> None:
    # squares 1, .25, 4; values held within .2 of the old ones: 1.3, 2, 2.7 -> 1.69, .25, 2.89
    arrays = {"mask": np.ones((1, 3)), "weights": np.array([[1.0, 2.0, 0.5]]), "returns": RETURNS}
    loss, sums = ValueLoss()(ns.xp, ns.array(VALUES), given_to(ns, arrays | {"old_values": OLD_VALUES}))
    ns.close(loss, 0.5 * (1.69 + 2 * 0.25 + 0.5 * 4))
    ns.close([float(sums[name]) for name in ("value", "value_clip", "value_error")], [6, 1, 5.25])
    loss, _ = ValueLoss(clip=0.0)(ns.xp, ns.array(VALUES), given_to(ns, arrays))
    ns.close(loss, 0.5 * (1 + 2 * 0.25 + 0.5 * 4))


@needs_torch
def test_gradient_of_the_value_loss() -> None:
    ns = torch_namespace("float64", 1e-12)
    arrays = {"mask": np.array([[1.0, 1, 1]]), "weights": np.array([[1.0, 2.0, 0.5]]), "returns": RETURNS}
    arrays["old_values"] = OLD_VALUES
    leaf = ns.array(VALUES).requires_grad_()
    ValueLoss()(ns.xp, leaf, given_to(ns, arrays))[0].backward()
    ns.close(leaf.grad, [[0, 2 * -0.5, 0.5 * 2]])  # the first is held by the bound
    np.testing.assert_allclose(leaf.grad, finite_differences(ValueLoss(), VALUES, arrays), rtol=0, atol=1e-9)


def test_loss_of_a_configuration() -> None:
    assert policy_loss("gspo", {"clip_low": 0.1}) == SequencePolicyLoss(clip_low=0.1)
    assert policy_loss("item", {"items": 20}, {"kl_coef": 0.1}) == ItemPolicyLoss(items=20, kl_coef=0.1)
    assert policy_loss("ppo", {}, {"clip_low": 0.1, "dual_clip": 3.0}) == PolicyLoss(clip_low=0.1, dual_clip=3.0)


def test_numbers_of_a_preset_leave_alone_what_is_the_losss_own() -> None:
    common = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0, "kl_coef": 0.01}
    assert policy_loss("gspo", {}, common) == SequencePolicyLoss(dual_clip=3.0, kl_coef=0.01)
    assert policy_loss("cispo", {}, common) == CispoPolicyLoss(kl_coef=0.01)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("gsop", {}, r"algorithm.loss 'gsop' is unknown \(did you mean 'gspo'\?\); there are ppo, cispo"),
        ("sapo", {"tau_positiv": 1.0}, r"sapo: tau_positiv is unknown \(did you mean 'tau_positive'\?\); it takes"),
        ("cispo", {"clip_high": 0.2}, "cispo: clip_high has no effect; it takes .*low, high"),
        ("item", {"items": 2.5}, "item: items must be a whole number, not 2.5"),
        ("item", {"items": 0}, "items must be at least 1"),
        ("item", {"items": True}, "items must be a whole number, not True"),
        ("gspo", {"gradient": "row"}, "gradient must be sequence or token, not 'row'"),
        ("ppo", {"delta": 1.1}, r"delta must be above 1 \+ clip_high = 1.2, not 1.1"),
        ("ppo", {"dual_clip": 0.5}, "dual_clip must be above 1"),
        ("ppo", {"kl_coef": -0.1}, "kl_coef must be 0 or a positive number"),
        ("ppo", {"clip_low": 1.0}, "clip_low must be below 1"),
        ("ppo", {"kl_estimator": "k4"}, "kl_estimator must be one of k1, k2, k3"),
        ("cispo", {"low": 3.0, "high": 2.0}, "low must be below high"),
        ("sapo", {"tau_negative": 0.0}, "tau must be above 0"),
    ],
)
def test_wrong_names_and_numbers_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_loss(name, arguments)


def test_what_a_loss_reads_is_said() -> None:
    assert PolicyLoss(entropy_coef=0.1).reads_entropy
    assert not PolicyLoss().reads_entropy
    with pytest.raises(ValueError, match="needs segments"):
        ItemPolicyLoss(items=2)(NUMPY, LOGPS, {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES})
    with pytest.raises(ValueError, match=r"values \(1, 2\) and mask \(1, 3\)"):
        ValueLoss()(NUMPY, VALUES[:, :2], {"mask": np.ones((1, 3))})
