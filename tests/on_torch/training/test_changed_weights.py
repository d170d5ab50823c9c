"""The share of the weights that a step changed."""

from __future__ import annotations

import pytest
import torch
from mindrlhf_grpo_torch.training.changed_weights import changed, sample

from mindrlhf_grpo.batches.sums import changed_frac, sample_stride


def test_small_tensors_are_compared_whole_and_large_ones_in_part() -> None:
    """Finding P1, of its kind: nothing said whether an update changed anything."""
    small, large = torch.zeros(10), torch.zeros(100, 1000)
    before = sample([small, large])
    assert [len(taken) for taken in before] == [10, 4167]  # every 24th of 100,000
    assert sample_stride(large.numel()) == 24
    assert changed(before, [small, large]) == (0.0, 100_010.0)
    small[:3] += 1
    assert changed(before, [small, large]) == (3.0, 100_010.0)
    large += 1
    assert changed_frac([changed(before, [small, large])]) == pytest.approx(100_003 / 100_010)


def test_rounding_that_swallows_an_update_is_no_change() -> None:
    weight = torch.full((4,), 1.0, dtype=torch.bfloat16)
    before = sample([weight])
    weight += 1e-4
    assert changed(before, [weight]) == (0.0, 4.0)


def test_without_weights_nothing_changed() -> None:
    assert changed(sample([]), []) == (0.0, 0.0)
    assert changed_frac([(0.0, 0.0), (0.0, 0.0)]) == 0.0
