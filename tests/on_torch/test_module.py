"""The members of the torch backend's module that the core calls without a run."""

from __future__ import annotations

import numpy as np
import pytest

from mindrlhf_grpo.backend import backend_module, backend_of_type

torch = pytest.importorskip("torch")


def test_arrays_go_to_torch_and_come_back_in_float32() -> None:
    module = backend_module("torch")
    tensor = module.from_numpy(np.array([[1, 2]]), torch.device("cpu"))
    assert tensor.dtype == torch.int64
    scores = (tensor.bfloat16() * torch.ones((), requires_grad=True)).sum(1)
    found = module.to_numpy(scores)
    assert (found.dtype, found.tolist()) == (np.float32, [3.0])


def test_a_class_is_of_the_backend_whose_framework_it_is_built_on() -> None:
    module = backend_of_type(type("Model", (torch.nn.Module,), {}))
    assert module is not None
    assert module.FRAMEWORK == "torch"
    assert backend_of_type(dict) is None
