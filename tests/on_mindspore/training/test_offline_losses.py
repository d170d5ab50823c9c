"""Losses of supervised fine-tuning, preferences and reward models on MindSpore: compiled, all in one function."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindrlhf_grpo_mindspore import xp
from mindspore import Tensor

from mindrlhf_grpo.losses.xp import NUMPY
from tests.support.offline_losses import CASES, EXPECTED

ARRAYS = sorted({name for _, _, tensors in CASES.values() for name in tensors})


def stacked(case: dict[str, np.ndarray]) -> np.ndarray:
    """The arrays of a case in the order of ``ARRAYS``; those that it lacks are 0 and not read."""
    return np.stack([case.get(name, np.zeros((4, 3))) for name in ARRAYS]).astype(np.float32)


class Case(ms.nn.Cell):
    """One loss and the arrays it reads."""

    def __init__(self, loss: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.loss = loss
        self.names = names
        self.places = tuple(ARRAYS.index(name) for name in names)

    def construct(self, outputs: Tensor, arrays: Tensor) -> tuple[Tensor, Tensor]:
        tensors = {}
        for at in range(len(self.names)):
            tensors[self.names[at]] = arrays[self.places[at]]
        value, sums = self.loss(xp, outputs, tensors)
        return value, ms.ops.stack((*sums.values(),))


class AllCases(ms.nn.Cell):
    """Every case; the gradient of the total holds that of each loss."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = ms.nn.CellList([Case(loss, tuple(tensors)) for loss, _, tensors in CASES.values()])

    def construct(self, outputs: Tensor, arrays: Tensor) -> Any:
        return ms.value_and_grad(self.total, 0, None, has_aux=True)(outputs, arrays)

    def total(self, outputs: Tensor, arrays: Tensor) -> Any:
        values, sums = (), ()
        place = 0
        for case in self.cases:
            value, found = case(outputs[place], arrays[place])
            values, sums = (*values, value), (*sums, found)
            place += 1  # noqa: SIM113  (compiled: enumerate is not)
        stacked = ms.ops.stack(values)
        return stacked.sum(), stacked, sums


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    outputs = np.stack([array for _, array, _ in CASES.values()]).astype(np.float32)
    arrays = np.stack([stacked(tensors) for _, _, tensors in CASES.values()])
    (_, values, sums), gradient = ms.jit(AllCases().construct)(Tensor(outputs), Tensor(arrays))
    return {
        name: (values[place].asnumpy(), sums[place].asnumpy(), gradient[place].asnumpy())
        for place, name in enumerate(CASES)
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.row("mindrlhf", "DPO/RM")
def test_golden_numbers(name: str, found: dict[str, Any]) -> None:
    loss, outputs, tensors = CASES[name]
    value, sums, _ = found[name]
    assert float(value) == pytest.approx(EXPECTED[name], abs=1e-6)
    np.testing.assert_allclose(sums, list(loss(NUMPY, outputs, tensors)[1].values()), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.row("mindrlhf", "Backend parity")
def test_gradients_equal_torch(name: str, found: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    torch_xp = pytest.importorskip("mindrlhf_grpo_torch.xp")
    loss, outputs, tensors = CASES[name]
    leaf = torch.tensor(outputs, requires_grad=True)
    loss(torch_xp, leaf, {key: torch.tensor(array) for key, array in tensors.items()})[0].backward()
    np.testing.assert_allclose(found[name][2], leaf.grad.numpy(), atol=2e-6)
