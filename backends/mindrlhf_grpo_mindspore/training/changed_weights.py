"""The share of the trained weights that an optimizer step changed, estimated from a sample of each tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter
from numpy.typing import NDArray

from mindrlhf_grpo.batches.sums import estimate_changed, sample_stride

from ..models.hf import numbers

Sample = list[NDArray[Any]]


def sample(weights: Iterable[Parameter], *, on_host: bool) -> Sample:
    """Copies of some elements of each weight.

    Args:
        on_host: the device is the processor: NumPy reads the weights where they are.
    """
    if on_host:
        flats = (numbers(weight).reshape(-1) for weight in weights)
        return [flat[:: sample_stride(len(flat))].copy() for flat in flats]
    tensors = (weight.reshape(-1)[:: sample_stride(math.prod(weight.shape))] for weight in weights)
    return [tensor.astype(ms.float32).asnumpy().copy() for tensor in tensors]


def changed(before: Sample, weights: Sequence[Parameter], *, on_host: bool) -> tuple[float, float]:
    """Estimated number of elements that differ from the sample taken ``before``, and number of all."""
    after = sample(weights, on_host=on_host)
    counts = (int(np.count_nonzero(old != new)) for old, new in zip(before, after, strict=True))
    return estimate_changed(zip((math.prod(weight.shape) for weight in weights), counts, strict=True))
