"""Every policy loss and the value loss inside MindSpore's compiler: values by hand, gradients those of torch in float64.

One function of all losses is compiled in float32, as in training, and once more with its gradient in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.losses import ValueLoss
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
    Case,
    torch_namespace,
)

ms = pytest.importorskip("mindspore")
pytest.importorskip("torch")
mindspore_xp = pytest.importorskip("mindrlhf_grpo_mindspore.xp")

LOSSES = (*(case.loss for case in CASES.values()), *OTHERS.values())
VALUE = ValueLoss()
# each case of its own numbers where it has any: index of the arrays it is given
ADVANTAGES_OF = (
    *(case.arrays.get("advantages", ADVANTAGES) for case in CASES.values()),
    *(ADVANTAGES for _ in OTHERS),
)
SEGMENTS_OF = (*(case.arrays.get("segments", SEGMENTS) for case in CASES.values()), *(SEGMENTS for _ in OTHERS))
FACTORS = np.linspace(0.5, 1.5, len(LOSSES))  # so that no two losses can stand in for each other


def every_loss(xp: Any, logps: Any, arrays: list[Any], advantages: list[Any], segments: list[Any]) -> list[Any]:
    """The value of each case, and of the value loss on the same numbers."""
    mask, old, reference, entropies = arrays
    values = []
    for place in range(len(LOSSES)):
        loss = LOSSES[place]
        tensors = {
            "mask": mask, "weights": mask, "advantages": advantages[place], "old_logps": old, "ref_logps": reference,
            "entropies": entropies, "segments": segments[place],
        }  # fmt: skip
        value, _ = loss(xp, logps, tensors)
        values.append(value)
    critic, _ = VALUE(xp, logps, {"mask": mask, "weights": mask, "returns": reference, "old_values": old})
    values.append(critic)
    return values


def inputs(tensor: Any) -> tuple[Any, ...]:
    """Arrays, advantages and segments as the namespace has them."""
    arrays = [tensor(array) for array in (ONES, OLD, LOGPS - LN2, ENTROPIES)]
    return arrays, [tensor(array) for array in ADVANTAGES_OF], [tensor(array) for array in SEGMENTS_OF]


def tensor_of(array: np.ndarray, dtype: Any = np.float32) -> Any:
    return ms.Tensor(array if array.dtype == np.int32 else array.astype(dtype))


@dataclass(frozen=True)
class Results:
    """Values of all losses in float32 and float64, and the gradient of their weighted sum in float64."""

    single: list[float]
    double: list[float]
    slopes: np.ndarray


@pytest.fixture(scope="module")
def results() -> Results:
    ms.set_device("CPU")
    single = inputs(tensor_of)
    double = inputs(lambda array: tensor_of(array, np.float64))

    def values(logps: Any) -> Any:
        return tuple(every_loss(mindspore_xp, logps, single[0], single[1], single[2]))

    def weighted(logps: Any) -> Any:
        found = every_loss(mindspore_xp, logps, double[0], double[1], double[2])
        total = found[len(LOSSES)]
        for place in range(len(LOSSES)):
            total = total + float(FACTORS[place]) * found[place]
        return total, tuple(found)

    (_, exact), slopes = ms.jit(ms.value_and_grad(weighted, has_aux=True))(tensor_of(LOGPS, np.float64))
    rounded = ms.jit(values)(tensor_of(LOGPS))
    return Results([float(value) for value in rounded], [float(value) for value in exact], slopes.asnumpy())


def test_value_of_every_loss(results: Results) -> None:
    for (name, case), value in zip(CASES.items(), results.double[: len(CASES)], strict=True):
        assert value == pytest.approx(case.value, rel=1e-6, abs=1e-6), name


def test_value_of_losses_without_a_literal_is_that_of_numpy(results: Results) -> None:
    """Those of a user among them: a function, a dataclass on the skeleton, and one without it."""
    tensors = {"mask": ONES, "weights": ONES, "advantages": ADVANTAGES, "old_logps": OLD, "segments": SEGMENTS}
    for (name, loss), value in zip(OTHERS.items(), results.double[len(CASES) : -1], strict=True):
        assert value == pytest.approx(float(loss(NUMPY, LOGPS, tensors)[0]), rel=1e-6, abs=1e-6), name


def size_of_terms(case: Case) -> float:
    """Sum of the absolute losses of the tokens: what rounding is relative to where they cancel."""
    parts = [np.eye(6)[token].reshape(2, 3) for token in range(6)]
    return float(sum(abs(case.loss(NUMPY, LOGPS, case.tensors() | {"weights": part})[0]) for part in parts))


def test_value_of_every_loss_in_float32(results: Results) -> None:
    for (name, case), value in zip(CASES.items(), results.single[: len(CASES)], strict=True):
        assert abs(value - case.value) <= 1e-6 * size_of_terms(case), name


def test_value_loss(results: Results) -> None:
    # V - R = ln 2 everywhere; V - Vo = log r, so values held within .2 of the old ones give clip(log r) - log r + ln 2
    held = np.clip(np.log([1.5, 1.1, 0.5, 1.5, 0.5, 4.0]), -0.2, 0.2)
    errors = held - np.log([1.5, 1.1, 0.5, 1.5, 0.5, 4.0]) + LN2
    assert results.double[-1] == pytest.approx(0.5 * np.maximum(errors**2, LN2**2).sum(), rel=1e-6)


@pytest.mark.row("mindrlhf", "Backend parity", backend="mindspore")
def test_gradient_of_all_losses_is_that_of_torch(results: Results) -> None:
    ns = torch_namespace("float64", 1e-12)
    leaf = ns.array(LOGPS).requires_grad_()
    arrays, advantages, segments = inputs(ns.array)
    found = every_loss(ns.xp, leaf, arrays, advantages, segments)
    total = found[-1] + sum(factor * value for factor, value in zip(FACTORS, found[:-1], strict=True))
    total.backward()
    np.testing.assert_allclose(results.slopes, leaf.grad.numpy(), rtol=1e-6, atol=1e-6)
