"""Arrays from NumPy and back, for models that users bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def from_numpy(array: NDArray[Any], device: torch.device | None) -> Tensor:
    """A tensor of the array's type, in the array's memory unless a device is passed."""
    tensor = torch.from_numpy(array)
    return tensor if device is None else tensor.to(device)


def to_numpy(array: Tensor) -> NDArray[Any]:
    """The numbers of a tensor in float32."""
    return np.asarray(array.detach().float().cpu().numpy())
