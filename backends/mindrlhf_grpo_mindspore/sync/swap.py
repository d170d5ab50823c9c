"""Swap: parameters leave the device for host memory and return to the same place.

Compiled functions read a parameter at the address they were compiled with, so nothing is replaced. On Ascend a
parameter's own ``_offload`` and ``_load`` free and fill its memory (not run yet). The CPU target has no separate device
memory: the values are copied and the parameter reads as NaN until they are back, so that a wrong use shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from mindspore import Parameter, Tensor

from ..devices import Device
from ..graph import overwrite
from ..models.hf import numbers


class DeviceMemory:
    """Implements ``residency.Role`` over the current parameters at each move.

    Attributes:
        away: the parameters that are not on the device, with their values where these were copied.
    """

    def __init__(self, parameters: Callable[[], Iterable[Parameter]], device: Device) -> None:
        self.parameters, self.device = parameters, device
        self.away: list[tuple[Parameter, Tensor | None]] = []

    def device_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    def offload(self) -> None:
        """Copy the values to host memory, then free the parameters or fill them with NaN."""
        for parameter in self.parameters():
            if self.device.kind == "cpu":
                self.away.append((parameter, Tensor(numbers(parameter).copy())))
                overwrite(parameter, Tensor(np.full(parameter.shape, np.nan, np.float32)))
            else:
                parameter._offload()
                self.away.append((parameter, None))

    def load(self) -> None:
        """Copy the values back."""
        for parameter, values in self.away:
            if values is None:
                parameter._load()
            else:
                overwrite(parameter, values)
        self.away = []
