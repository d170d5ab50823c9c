"""Losses of supervised fine-tuning, preferences and reward models against worked-out numbers, on NumPy and torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.algorithms.offline.reference_free import log_odds
from mindrlhf_grpo.losses import preference
from mindrlhf_grpo.losses.xp import NUMPY
from tests.support.offline_losses import CASES, EXPECTED, EXPECTED_SUMS, LOGPS, MASK, PAIRS, REFERENCE, rowwise


def on_torch(name: str, dtype: str) -> tuple[float, dict[str, float], np.ndarray]:
    """Loss, sums and the gradient of the outputs."""
    torch = pytest.importorskip("torch")
    xp = pytest.importorskip("mindrlhf_grpo_torch.xp")
    loss, outputs, tensors = CASES[name]
    leaf = torch.tensor(outputs, dtype=getattr(torch, dtype), requires_grad=True)
    value, sums = loss(xp, leaf, {key: torch.tensor(array, dtype=leaf.dtype) for key, array in tensors.items()})
    value.backward()
    assert not any(total.requires_grad for total in sums.values())
    return float(value.detach()), {key: float(total) for key, total in sums.items()}, leaf.grad.numpy()


def on_numpy(name: str, outputs: np.ndarray | None = None) -> tuple[float, dict[str, float]]:
    loss, given, tensors = CASES[name]
    value, sums = loss(NUMPY, given if outputs is None else outputs, tensors)
    return float(value), {key: float(total) for key, total in sums.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.row("mindrlhf", "DPO/RM", backend="none")
def test_golden_numbers(name: str) -> None:
    value, sums = on_numpy(name)
    assert value == pytest.approx(EXPECTED[name], abs=1e-11)
    assert sums == pytest.approx(EXPECTED_SUMS.get(name, sums), abs=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.row("mindrlhf", "DPO/RM")
def test_golden_numbers_on_torch(name: str) -> None:
    for dtype, tolerance in (("float64", 1e-11), ("float32", 1e-6)):
        value, sums, _ = on_torch(name, dtype)
        assert value == pytest.approx(EXPECTED[name], abs=tolerance)
        assert sums == pytest.approx(on_numpy(name)[1], abs=tolerance)


# These have a constant in place of a number that depends on the weights; their gradient is tested on its own.
DECOUPLED = {"aot_unpaired"}


@pytest.mark.parametrize("name", sorted(set(CASES) - DECOUPLED))
def test_gradients_equal_finite_differences(name: str) -> None:
    _, _, gradient = on_torch(name, "float64")
    outputs, step = CASES[name][1], 1e-6
    for place in np.ndindex(outputs.shape):
        moved = []
        for sign in (1, -1):
            shifted = outputs.copy()
            shifted[place] += sign * step
            moved.append(on_numpy(name, shifted)[0])
        assert gradient[place] == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-8), place


def sorted_aot(logps: Any, *, paired: bool, beta: float = 0.5, smoothing: float = 0.1) -> Any:
    """The formula as it is written, with the sort inside (torch)."""
    import torch

    mask = torch.tensor(MASK)
    policy = torch.where(mask > 0, logps, 0.0).sum(1)
    reference = torch.tensor(np.where(MASK > 0, REFERENCE["ref_logps"], 0.0)).sum(1)
    if paired:
        gap = (policy[0::2] - policy[1::2]).sort()[0] - (reference[0::2] - reference[1::2]).sort()[0]
    else:
        gap = (policy - reference)[0::2].sort()[0] - (policy - reference)[1::2].sort()[0]
    softplus = torch.nn.functional.softplus
    return ((1 - smoothing) * softplus(-beta * gap) + smoothing * softplus(beta * gap)).mean()


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_the_sort_of_the_host_gives_value_and_gradient_of_the_sorted_formula(name: str) -> None:
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(LOGPS, requires_grad=True)
    expected = sorted_aot(leaf, paired=name == "aot")
    expected.backward()
    value, _, gradient = on_torch(name, "float64")
    assert value == pytest.approx(float(expected.detach()), abs=1e-12)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-12)


def test_trap_ipo_of_sums_is_not_ipo_of_averages() -> None:
    """TRL averages over tokens, OpenRLHF and MindRLHF sum: h is 1.75 and -1.25, or 0.7083 and -0.875."""
    assert EXPECTED["ipo_sum"] == ((1.75 - 1) ** 2 + (-1.25 - 1) ** 2) / 2
    thirds = (1 / 3 + 0.75 / 2, -0.75 / 2 - 0.5)
    assert EXPECTED["ipo"] == pytest.approx(sum((h - 1) ** 2 for h in thirds) / 2)


def test_the_golden_value_of_dpo() -> None:
    """Policy -1 and -2, both references -1.5, beta 0.1."""
    row = {"mask": np.ones((2, 1)), "row_weight": np.ones((2, 1)), "ref_logps": np.full((2, 1), -1.5)}
    assert preference.Sigmoid()(NUMPY, np.array([[-1.0], [-2.0]]), row)[0] == pytest.approx(0.644397, abs=1e-6)
    loss, sums = preference.Sigmoid()(NUMPY, np.array([[-1.5], [-1.5]]), row)
    assert loss == pytest.approx(math.log(2))
    assert sums["accuracy"] == 0.5, "a policy that is its reference is right as often as chance"


@pytest.mark.parametrize("name", CASES)
def test_rows_added_as_padding_change_nothing(name: str) -> None:
    loss, outputs, tensors = CASES[name]
    padded = {key: np.concatenate([array, np.zeros((3, 3))]) for key, array in tensors.items()}
    value, sums = loss(NUMPY, np.concatenate([outputs, np.full((3, 3), -1.0)]), padded)
    assert value == pytest.approx(EXPECTED[name], abs=1e-12)
    assert sums == pytest.approx(on_numpy(name)[1], abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_add_up(name: str) -> None:
    loss, outputs, tensors = CASES[name]
    parts = [
        loss(NUMPY, outputs[rows], {key: array[rows] for key, array in tensors.items()})
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert sum(value for value, _ in parts) == pytest.approx(EXPECTED[name], abs=1e-12)
    for key, total in on_numpy(name)[1].items():
        assert sum(sums[key] for _, sums in parts) == pytest.approx(total, abs=1e-12)


def test_far_gaps_stay_finite_in_float32() -> None:
    torch = pytest.importorskip("torch")
    xp = pytest.importorskip("mindrlhf_grpo_torch.xp")
    for name, (loss, _, tensors) in CASES.items():
        for high, low in ((-1e-9, -3000.0), (-3000.0, -1e-9)):
            outputs = torch.tensor(rowwise(high, low, high, low), dtype=torch.float32, requires_grad=True)
            arrays = {key: torch.tensor(np.nan_to_num(array), dtype=torch.float32) for key, array in tensors.items()}
            value, _ = loss(xp, outputs, arrays)
            value.backward()
            assert torch.isfinite(value), name
            assert torch.isfinite(outputs.grad).all(), name


@pytest.mark.parametrize("logp", [-1e-8, -1e-3, -0.0999, -0.1001, -0.7, -5.0, -80.0])
def test_log_odds_keep_their_digits(logp: float) -> None:
    expected = logp - math.log(-math.expm1(logp))
    assert float(log_odds(NUMPY, np.float64(logp))) == pytest.approx(expected, rel=1e-12)
    # Near odds of one (-0.7) two almost equal terms are subtracted. In units of their last place float32 loses one by
    # rounding logp (half a unit, times a slope of 2) and half a unit each in expm1 and log. An array, because NumPy 1
    # computes with float32 scalars in float64.
    [single] = log_odds(NUMPY, np.array([logp], np.float32))
    unit = float(np.spacing(np.float32(abs(logp))))
    assert abs(float(single) - expected) <= max(3e-6 * abs(expected), 2 * unit)


def test_one_row_makes_no_pair() -> None:
    """A backend finds the names of the sums by computing the loss of one token."""
    tensors = {key: array[:1] for key, array in (PAIRS | REFERENCE).items()}
    value, sums = preference.Sigmoid()(NUMPY, LOGPS[:1], tensors)
    assert float(value) == 0
    assert sums["pairs"] == 0
