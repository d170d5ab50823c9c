"""The value head on the last hidden state: a linear layer or an MLP, computed in float32 for any body."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.value_head import LEAK, ValueHead

from .. import ops


def head_weights(stored: ValueHead) -> dict[str, Parameter]:
    """The stored head as parameters of the same names, in float32."""
    return {name: Parameter(Tensor(values), name=name) for name, values in stored.tensors.items()}


class FloatLinear(nn.Cell):
    """A linear layer in float32."""

    def __init__(self, weights: Mapping[str, Parameter], name: str) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")

    def construct(self, x: Tensor) -> Tensor:
        """``[R, in]`` float32 -> ``[R, out]``."""
        return ops.linear(x, self.weight, self.bias)


class FloatHead(nn.Cell):
    """One layer, or several with an activation between them."""

    def __init__(self, weights: Mapping[str, Parameter], stored: ValueHead) -> None:
        super().__init__(auto_prefix=False)
        self.activation = stored.activation
        first, *others = stored.layers
        self.first = FloatLinear(weights, first)
        self.others = nn.CellList([FloatLinear(weights, name) for name in others], auto_prefix=False)

    def construct(self, hidden: Tensor) -> Tensor:
        """Hidden states after the final norm ``[R, E]`` of any type -> ``[R]`` float32."""
        values = self.first(hidden.astype(ms.float32))
        for layer in self.others:
            values = layer(self.active(values))
        return values.reshape(-1)

    def active(self, x: Tensor) -> Tensor:
        if self.activation == "leaky_relu":
            return native.maximum(x, x * LEAK)
        if self.activation == "tanh":
            return native.tanh(x)
        return native.relu(x)
