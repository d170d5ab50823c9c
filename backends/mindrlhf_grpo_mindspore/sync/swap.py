"""Parameters that leave the device and come back to the same place.

Compiled functions read a parameter where it lay when they were compiled, so nothing is replaced. On Ascend a
parameter's own ``_offload`` and ``_load`` free and fill its memory (written for it, not run here). The CPU target has
no memory of another kind: the numbers are set aside and the place reads as NaN until they are back, so that a wrong
use shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from mindspore import Parameter, Tensor

from ..devices import Device
from ..graph import overwrite
from ..models.hf import numbers


class DeviceMemory:
    """Implements ``residency.Role`` over the parameters that there are when it moves.

    Attributes:
        away: what is not on the device, with its numbers where they were set aside.
    """

    def __init__(self, parameters: Callable[[], Iterable[Parameter]], device: Device) -> None:
        self.parameters, self.device = parameters, device
        self.away: list[tuple[Parameter, Tensor | None]] = []

    def device_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())

    def offload(self) -> None:
        """Set the numbers aside."""
        for parameter in self.parameters():
            if self.device.kind == "cpu":
                self.away.append((parameter, Tensor(numbers(parameter).copy())))
                overwrite(parameter, Tensor(np.full(parameter.shape, np.nan, np.float32)))
            else:
                parameter._offload()
                self.away.append((parameter, None))

    def load(self) -> None:
        """Bring the numbers back."""
        for parameter, values in self.away:
            if values is None:
                parameter._load()
            else:
                overwrite(parameter, values)
        self.away = []
