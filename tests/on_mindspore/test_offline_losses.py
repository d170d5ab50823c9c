"""Losses of supervised fine-tuning, preferences and reward models on MindSpore: compiled, all in one function."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindrlhf_grpo_mindspore import xp
from mindspore import Tensor
from offline_losses import CASES, EXPECTED

from mindrlhf_grpo.xp import NUMPY

ARRAYS = sorted({name for _, _, tensors in CASES.values() for name in tensors})


def stacked(case: dict[str, np.ndarray]) -> np.ndarray:
    """The arrays of a case in the order of ``ARRAYS``; those that it lacks are 0 and not read."""
    return np.stack([case.get(name, np.zeros((4, 3))) for name in ARRAYS]).astype(np.float32)


class AllLosses(ms.nn.Cell):
    """Each loss with its sums and its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = [loss for loss, _, _ in CASES.values()]
        self.names = [tuple(tensors) for _, _, tensors in CASES.values()]

    def construct(self, outputs: Tensor, arrays: Tensor) -> Any:
        found = ()
        for place in range(len(self.losses)):
            both = ms.value_and_grad(self.value, 0, None, has_aux=True)
            (value, sums), gradient = both(outputs[place], arrays[place], place)
            found = (*found, (value, sums, gradient))
        return found

    def value(self, outputs: Tensor, arrays: Tensor, place: int) -> tuple[Tensor, Tensor]:
        tensors = {}
        for at in range(len(ARRAYS)):
            if ARRAYS[at] in self.names[place]:
                tensors[ARRAYS[at]] = arrays[at]
        value, sums = self.losses[place](xp, outputs, tensors)
        return value, ms.ops.stop_gradient(ms.ops.stack((*sums.values(),)))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    outputs = np.stack([array for _, array, _ in CASES.values()]).astype(np.float32)
    arrays = np.stack([stacked(tensors) for _, _, tensors in CASES.values()])
    results = ms.jit(AllLosses().construct)(Tensor(outputs), Tensor(arrays))
    return {name: [part.asnumpy() for part in result] for name, result in zip(CASES, results, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_golden_numbers(name: str, found: dict[str, Any]) -> None:
    loss, outputs, tensors = CASES[name]
    value, sums, _ = found[name]
    assert float(value) == pytest.approx(EXPECTED[name], abs=1e-6)
    np.testing.assert_allclose(sums, list(loss(NUMPY, outputs, tensors)[1].values()), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_torch(name: str, found: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    torch_xp = pytest.importorskip("mindrlhf_grpo_torch.xp")
    loss, outputs, tensors = CASES[name]
    leaf = torch.tensor(outputs, requires_grad=True)
    loss(torch_xp, leaf, {key: torch.tensor(array) for key, array in tensors.items()})[0].backward()
    np.testing.assert_allclose(found[name][2], leaf.grad.numpy(), atol=2e-6)
