"""A projection, with its LoRA adapter where there is one."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, nn

from .. import ops
from .tensor_group import ALONE, LeaveSlices, TensorGroup


class Linear(nn.Cell):
    """``weight x + bias + lora_scale * B A x``; the last term only where the weights hold an adapter and the scale is not 0.

    Adapters are float32, whatever the type of the weight; their product is rounded once, when it is added.

    Args:
        group: the ranks that hold slices of the matrix; where they cut its inputs, the products are summed over them.
        summed: whether this cell does so; else its caller sums.
    """

    def __init__(
        self,
        weights: Mapping[str, Parameter],
        module: str,
        lora_scale: float,
        group: TensorGroup = ALONE,
        *,
        summed: bool = True,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.weight = weights[f"{module}.weight"]
        self.bias = weights.get(f"{module}.bias")
        self.adapted = lora_scale > 0 and f"{module}.lora_A.weight" in weights
        self.lora_scale = lora_scale
        self.summed = summed and group.divides_inputs(module)
        if self.summed:
            self.leave = LeaveSlices(group)
        if self.adapted:
            self.lora_a, self.lora_b = weights[f"{module}.lora_A.weight"], weights[f"{module}.lora_B.weight"]

    def construct(self, x: Tensor) -> Tensor:
        """``[S, in]`` -> ``[S, out]``."""
        if self.summed:
            y = self.leave(self.product(x, None))
            return y if self.bias is None else y + self.bias
        return self.product(x, self.bias)

    def product(self, x: Tensor, bias: Parameter | None) -> Tensor:
        y = ops.linear(x, self.weight, bias)
        if self.adapted:
            narrow = ops.linear(x.astype(self.lora_a.dtype), self.lora_a)
            y = y + (ops.linear(narrow, self.lora_b) * self.lora_scale).astype(y.dtype)
        return y
