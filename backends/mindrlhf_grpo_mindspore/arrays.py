"""Arrays from NumPy and back, for models that users bring."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor
from numpy.typing import NDArray

from .devices import Device
from .models.hf import numbers


def from_numpy(array: NDArray[Any], device: Device | None) -> Tensor:
    """A tensor of the array's type; MindSpore puts it on the device of the process."""
    return Tensor(array)


def to_numpy(array: Tensor) -> NDArray[Any]:
    """The numbers of a tensor in float32."""
    return numbers(array)
