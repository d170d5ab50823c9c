"""The cell that turns positions into rotary angles."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindrlhf_grpo.model_files.rotary import Rotary


class RotaryAngles(nn.Cell):
    """Cosine and sine of every pair at given positions."""

    def __init__(self, rotary: Rotary, dtype: ms.Type) -> None:
        super().__init__(auto_prefix=False)
        self.frequencies = Tensor(np.array(rotary.frequencies, np.float32)[None])
        self.amplitude = rotary.amplitude
        self.dtype = dtype

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """``[S]`` -> twice ``[S, 1, size / 2]``."""
        angles = (positions.astype(ms.float32).reshape(-1, 1) * self.frequencies).expand_dims(1)
        cos, sin = ops.cos(angles), ops.sin(angles)
        if self.amplitude != 1.0:
            cos, sin = cos * self.amplitude, sin * self.amplitude
        return cos.astype(self.dtype), sin.astype(self.dtype)
