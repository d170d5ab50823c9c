"""The share of the weights that a step changed."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindrlhf_grpo_mindspore.training.changed_weights import changed, sample


@pytest.mark.parametrize("on_host", [True, False])
def test_changed_elements_are_counted_on_host_and_device(on_host: bool) -> None:
    small = mindspore.Parameter(mindspore.Tensor(np.zeros(10, np.float32)), name="small")
    large = mindspore.Parameter(mindspore.Tensor(np.zeros((100, 1000), np.float32)), name="large")
    before = sample([small, large], on_host=on_host)
    assert [len(taken) for taken in before] == [10, 4167]  # every 24th of 100,000
    small.set_data(mindspore.Tensor(np.array([1] * 3 + [0] * 7, np.float32)))
    assert changed(before, [small, large], on_host=on_host) == (3.0, 100_010.0)
