"""The share of the trained weights that an optimizer step changed, estimated from a sample of each tensor."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mindrlhf_grpo.batches.sums import estimate_changed, sample_stride

from ..models.hf import local


def sample(weights: Iterable[Tensor]) -> list[Tensor]:
    """Copies of some elements of each tensor, of a sharded one of this rank's shard."""
    flats = (local(weight).detach().reshape(-1) for weight in weights)
    return [flat[:: sample_stride(flat.numel())].clone() for flat in flats]


def changed(before: list[Tensor], weights: Iterable[Tensor]) -> tuple[float, float]:
    """Estimated number of elements that differ from the sample taken ``before``, and number of all."""
    weights = list(weights)
    if not weights:
        return 0.0, 0.0
    counts = torch.stack([(old != new).sum() for old, new in zip(before, sample(weights), strict=True)])
    return estimate_changed(zip((local(weight).numel() for weight in weights), counts.tolist(), strict=True))
