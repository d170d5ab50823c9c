"""Gated feed-forward: down(silu(gate(x)) * up(x))."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, nn

from .. import ops
from .linear import Linear
from .tensor_group import ALONE, TensorGroup, enter


class FeedForward(nn.Cell):
    """A gated feed-forward; with ``fused`` the gate and up projection are one matrix, in this order.

    Args:
        group: the ranks that hold slices of it.
        inside: a larger block is cut over the group; this part of it neither enters nor leaves the slices.
    """

    def __init__(
        self,
        weights: Mapping[str, Parameter],
        module: str,
        lora_scale: float,
        group: TensorGroup = ALONE,
        *,
        fused: bool,
        inside: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.fused, self.recomputed = fused, False
        self.enter = enter(ALONE if inside else group)
        if fused:
            self.gate_up_proj = Linear(weights, f"{module}.gate_up_proj", lora_scale, group)
        else:
            self.gate_proj = Linear(weights, f"{module}.gate_proj", lora_scale, group)
            self.up_proj = Linear(weights, f"{module}.up_proj", lora_scale, group)
        self.down_proj = Linear(weights, f"{module}.down_proj", lora_scale, group, summed=not inside)

    def construct(self, x: Tensor) -> Tensor:
        """``[S, E]`` -> ``[S, E]``."""
        x = self.enter(x)
        if self.fused:
            both = self.gate_up_proj(x)
            inner = both.shape[1] // 2
            return self.down_proj(ops.swiglu(both[:, :inner], both[:, inner:], self.recomputed))
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x), self.recomputed))
