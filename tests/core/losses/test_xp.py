"""Every name of the array namespace means the same in each twin."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.losses import xp as numpy_xp

torch = pytest.importorskip("torch")
torch_xp = pytest.importorskip("mindrlhf_grpo_torch.xp")

X = np.array([[0.5, 2.0, 1.25], [3.0, 0.25, 1.0]])
SIGNED = np.array([[-0.5, 2.0, 0.0], [3.0, -0.25, 1.0]])

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "abs": lambda xp, x, signed: xp.abs(signed),
    "clip": lambda xp, x, signed: xp.clip(signed, -0.3, 1.5),
    "exp": lambda xp, x, signed: xp.exp(signed),
    "isfinite": lambda xp, x, signed: xp.isfinite(xp.log(signed - 1.0 + xp.sqrt(x * 0.0))),
    "log": lambda xp, x, signed: xp.log(x),
    "logaddexp": lambda xp, x, signed: xp.logaddexp(x, signed),
    "max": lambda xp, x, signed: xp.max(-x),
    "maximum": lambda xp, x, signed: xp.maximum(x, signed),
    "mean": lambda xp, x, signed: xp.mean(x, axis=1, keepdims=True) + xp.mean(signed),
    "minimum": lambda xp, x, signed: xp.minimum(x, signed),
    "ones_like": lambda xp, x, signed: xp.ones_like(x),
    "sign": lambda xp, x, signed: xp.sign(signed),
    "sqrt": lambda xp, x, signed: xp.sqrt(x),
    "square": lambda xp, x, signed: xp.square(signed),
    "stop_gradient": lambda xp, x, signed: xp.stop_gradient(signed),
    "sum": lambda xp, x, signed: xp.sum(x, axis=1, keepdims=True) + xp.sum(x, axis=0) + xp.sum(signed),
    "where": lambda xp, x, signed: xp.where(signed > 0, x, -1.0),
    "zeros_like": lambda xp, x, signed: xp.zeros_like(x),
}


def test_every_name_is_tried() -> None:
    assert set(CALLS) == set(numpy_xp.NAMES)


@pytest.mark.filterwarnings("ignore:invalid value encountered in log", "ignore:divide by zero")
@pytest.mark.parametrize("name", numpy_xp.NAMES)
def test_torch_equals_numpy(name: str) -> None:
    expected = CALLS[name](numpy_xp, X, SIGNED)
    got = CALLS[name](torch_xp, torch.tensor(X), torch.tensor(SIGNED))
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-15, atol=1e-15)


def test_clip_takes_one_bound_and_max_takes_nothing() -> None:
    for xp, array in ((numpy_xp, np.asarray), (torch_xp, torch.tensor)):
        np.testing.assert_array_equal(xp.clip(array([-1.0, 5.0]), None, 2.0), [-1, 2])
        assert float(xp.max(array(np.zeros((0, 3))))) == 0


def test_twin_is_a_module_of_plain_functions_that_keep_the_dtype() -> None:
    """Graph compilers parse functions of a module; lambdas and partials they refuse."""
    for name in numpy_xp.NAMES:
        function = getattr(torch_xp, name)
        assert inspect.isroutine(function)
        assert function.__name__ == name
    half = torch.tensor(X, dtype=torch.bfloat16)
    assert torch_xp.where(half > 0, half, 0.0).dtype == torch.bfloat16
    single = X.astype(np.float32)
    assert numpy_xp.where(single > 0, single, 0.0).dtype == np.float32


def test_stop_gradient_stops_it() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    (x * torch_xp.stop_gradient(x)).backward()
    assert x.grad == 2
