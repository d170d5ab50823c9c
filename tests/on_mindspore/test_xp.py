"""Every name of the array namespace means over MindSpore tensors what it means in NumPy, eager and compiled."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindrlhf_grpo_mindspore import xp as mindspore_xp
from mindspore import Tensor

from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.losses import xp as numpy_xp

X = np.array([[0.5, 2.0, 1.25], [3.0, 0.25, 1.0]], np.float32)
SIGNED = np.array([[-0.5, 2.0, 0.0], [3.0, -0.25, 1.0]], np.float32)
FAR = np.array([[-90.0, 90.0, 0.0], [3.0, -1000.0, 1000.0]], np.float32)
INPUTS = (X, SIGNED, FAR)


def every_name(xp: Any, x: Any, signed: Any, far: Any) -> dict[str, Any]:
    """Each name on at least one input, with every argument it takes."""
    return {
        "abs": xp.abs(signed), "clip": xp.clip(signed, -0.3, 1.5), "clip/low": xp.clip(signed, 0.1, None),
        "clip/high": xp.clip(signed, None, 0.1), "exp": xp.exp(signed), "log": xp.log(x),
        "isfinite": xp.isfinite(xp.log(signed)), "logaddexp": xp.logaddexp(x, signed),
        "logaddexp/far": xp.logaddexp(far, signed), "max": xp.max(-x), "maximum": xp.maximum(x, signed),
        "mean": xp.mean(signed), "mean/axis": xp.mean(x, axis=1, keepdims=True), "mean/rows": xp.mean(x, axis=0),
        "minimum": xp.minimum(x, signed), "ones_like": xp.ones_like(x), "sign": xp.sign(signed), "sqrt": xp.sqrt(x),
        "square": xp.square(signed), "stop_gradient": xp.stop_gradient(signed), "sum": xp.sum(signed),
        "sum/axis": xp.sum(x, axis=1, keepdims=True), "sum/rows": xp.sum(x, axis=0),
        "where": xp.where(signed > 0, x, -1.0), "where/array": xp.where(signed > 0, x, signed),
        "zeros_like": xp.zeros_like(x),
    }  # fmt: skip


def listed(x: Tensor, signed: Tensor, far: Tensor) -> tuple[Tensor, ...]:
    return tuple(every_name(mindspore_xp, x, signed, far).values())


def differentiated(xp: Any, x: Any, signed: Any) -> Any:
    """One number that depends on its inputs through every name that has a slope."""
    bounded = xp.clip(x, 0.3, 2.5) * xp.sqrt(x) + xp.square(signed)
    joined = xp.logaddexp(x, signed) + xp.maximum(x, 0.5 * signed) * xp.log(x)
    chosen = xp.where(signed > 0, xp.exp(signed), 0.5) * xp.stop_gradient(x)
    lowest = xp.minimum(x, signed) * xp.mean(x, axis=1, keepdims=True)
    return xp.sum(bounded + joined + chosen + lowest + xp.abs(signed))


def differentiated_tensors(x: Tensor, signed: Tensor) -> Tensor:
    return differentiated(mindspore_xp, x, signed)


def slopes(x: Tensor, signed: Tensor) -> Any:
    return ms.grad(differentiated_tensors, (0, 1))(x, signed)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, np.ndarray]]:
    """The values by name, eager and compiled, by one compilation."""
    tensors = [Tensor(array) for array in INPUTS]
    with np.errstate(all="ignore"):
        expected = every_name(numpy_xp, *INPUTS)
    eager = [value.asnumpy() for value in listed(*tensors)]
    compiled = [value.asnumpy() for value in ms.jit(listed)(*tensors)]
    return {
        name: {"numpy": np.asarray(value), "eager": eager[place], "compiled": compiled[place]}
        for place, (name, value) in enumerate(expected.items())
    }


def test_every_name_is_tried(results: dict[str, dict[str, np.ndarray]]) -> None:
    assert {name.split("/")[0] for name in results} == set(numpy_xp.NAMES)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_every_name_equals_numpy(results: dict[str, dict[str, np.ndarray]], mode: str) -> None:
    """exp is the least exact: off by up to 8e-7 of its value on CPU."""
    for name, values in results.items():
        found, expected = values[mode], values["numpy"]
        assert found.shape == expected.shape, name
        assert found.dtype == expected.dtype, name
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_slopes_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    torch_xp = pytest.importorskip("mindrlhf_grpo_torch.xp")
    inputs = [torch.tensor(X, requires_grad=True), torch.tensor(SIGNED + 0.125, requires_grad=True)]
    differentiated(torch_xp, *inputs).backward()
    found = ms.jit(slopes)(Tensor(X), Tensor(SIGNED + 0.125))
    for slope, tensor in zip(found, inputs, strict=True):
        np.testing.assert_allclose(slope.asnumpy(), tensor.grad.numpy(), rtol=2e-6)


def test_the_largest_of_nothing_is_zero() -> None:
    assert float(mindspore_xp.max(SimpleNamespace(size=0, dtype=ms.float32))) == 0


def test_the_twin_is_a_module_of_plain_functions() -> None:
    for name in numpy_xp.NAMES:
        assert inspect.isfunction(getattr(mindspore_xp, name))


def test_a_loss_written_once_compiles_and_equals_numpy() -> None:
    loss = PolicyLoss(dual_clip=3.0, kl_coef=0.1, log_ratio_clamp=5.0, kl_clamp=10.0)
    random = np.random.default_rng(0)
    mask = (np.arange(4) < np.array([[4], [2], [3]])).astype(np.float32)
    names = ("weights", "advantages", "old_logps", "ref_logps", "rollout_logps")
    arrays = {"mask": mask, **{name: random.normal(size=(3, 4)).astype(np.float32) for name in names}}
    logps = random.normal(size=(3, 4)).astype(np.float32)

    def compiled(
        logps: Tensor, mask: Tensor, weights: Tensor, advantages: Tensor, old: Tensor, ref: Tensor, seen: Tensor
    ) -> Any:
        tensors = {
            "mask": mask, "weights": weights, "advantages": advantages, "old_logps": old, "ref_logps": ref,
            "rollout_logps": seen,
        }  # fmt: skip
        value, sums = loss(mindspore_xp, logps, tensors)
        return (value, *sums.values())

    value, sums = loss(numpy_xp, logps, arrays)
    found = ms.jit(compiled)(Tensor(logps), *(Tensor(array) for array in arrays.values()))
    np.testing.assert_allclose([float(x) for x in found], [value, *sums.values()], rtol=2e-6)
