"""Gated feed-forward: down(silu(gate(x)) * up(x))."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, nn

from .. import ops
from .linear import Linear


class FeedForward(nn.Cell):
    """A gated feed-forward; with ``fused`` the gate and up projection are one matrix, in this order."""

    def __init__(self, weights: Mapping[str, Parameter], module: str, lora_scale: float, *, fused: bool) -> None:
        super().__init__(auto_prefix=False)
        self.fused, self.recomputed = fused, False
        if fused:
            self.gate_up_proj = Linear(weights, f"{module}.gate_up_proj", lora_scale)
        else:
            self.gate_proj = Linear(weights, f"{module}.gate_proj", lora_scale)
            self.up_proj = Linear(weights, f"{module}.up_proj", lora_scale)
        self.down_proj = Linear(weights, f"{module}.down_proj", lora_scale)

    def construct(self, x: Tensor) -> Tensor:
        """``[S, E]`` -> ``[S, E]``."""
        if self.fused:
            both = self.gate_up_proj(x)
            inner = both.shape[1] // 2
            return self.down_proj(ops.swiglu(both[:, :inner], both[:, inner:], self.recomputed))
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x), self.recomputed))
