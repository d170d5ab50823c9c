"""RMSNorm (https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, nn

from .. import ops


class RmsNorm(nn.Cell):
    """RMSNorm over the last dimension."""

    def __init__(self, weights: Mapping[str, Parameter], module: str, eps: float) -> None:
        super().__init__(auto_prefix=False)
        self.weight = weights[f"{module}.weight"]
        self.eps = eps
        self.recomputed = False

    def construct(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps, self.recomputed)
