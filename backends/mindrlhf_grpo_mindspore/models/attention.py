"""Grouped-query attention: projections, head norms and rotation; the ``attend`` cell mixes tokens.

Legend: S tokens, E hidden size, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.architecture import Architecture

from .. import ops
from .linear import Linear
from .norms import RmsNorm
from .tensor_group import ALONE, TensorGroup, enter


class Attention(nn.Cell):
    """Grouped-query attention (https://arxiv.org/abs/2305.13245)."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Parameter],
        layer: int,
        attend: nn.Cell,
        lora_scale: float,
        group: TensorGroup = ALONE,
    ) -> None:
        super().__init__(auto_prefix=False)
        module = f"model.layers.{layer}.self_attn"
        self.layer, self.attend, self.enter = layer, attend, enter(group)
        architecture = group.own(architecture)
        self.heads, self.kv_heads, self.size = architecture.heads, architecture.kv_heads, architecture.key_size
        self.rotated, self.interleaved = architecture.rotary.size, architecture.rotary.interleaved
        self.q_proj = Linear(weights, f"{module}.q_proj", lora_scale, group)
        self.k_proj = Linear(weights, f"{module}.k_proj", lora_scale, group)
        self.v_proj = Linear(weights, f"{module}.v_proj", lora_scale, group)
        self.o_proj = Linear(weights, f"{module}.o_proj", lora_scale, group)
        self.head_norms = architecture.head_norms
        if self.head_norms:
            self.q_norm = RmsNorm(weights, f"{module}.q_norm", architecture.norm_eps)
            self.k_norm = RmsNorm(weights, f"{module}.k_norm", architecture.norm_eps)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[S, E]`` -> ``[S, E]``."""
        tokens = x.shape[0]
        x = self.enter(x)
        queries = self.q_proj(x).reshape(tokens, self.heads, self.size)
        keys = self.k_proj(x).reshape(tokens, self.kv_heads, self.size)
        values = self.v_proj(x).reshape(tokens, self.kv_heads, self.size)
        if self.head_norms:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        mixed = self.attend(self.layer, self.turn(queries, cos, sin), self.turn(keys, cos, sin), values, plan)
        return self.o_proj(mixed.reshape(tokens, self.heads * self.size))

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first part of every head."""
        if self.rotated == self.size:
            return ops.rotate(x, cos, sin, self.interleaved)
        turned = ops.rotate(x[:, :, : self.rotated], cos, sin, self.interleaved)
        return native.cat((turned, x[:, :, self.rotated :]), -1)
