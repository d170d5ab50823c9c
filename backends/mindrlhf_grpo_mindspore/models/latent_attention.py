"""Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434).

Keys and values of all heads are expanded from one small latent per token; a part of each key, shared by the heads,
carries the rotation. Here they are expanded before they are mixed, so ``attend`` sees ordinary heads.
Legend: S tokens, E hidden size, H heads, P plain and R rotated part of a key, Dv size of a value.
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

LATENT_EPS = 1e-6  # epsilon of the norms of the latents, whatever the model's rms_norm_eps


class LatentAttention(nn.Cell):
    """Latent attention; queries too come from a latent where the architecture compresses them."""

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
        latent = architecture.latent
        assert latent is not None
        module = f"model.layers.{layer}.self_attn"
        self.layer, self.attend = layer, attend
        self.sliced, self.enter = group.size > 1, enter(group)
        architecture = group.own(architecture)
        self.heads, self.value_size = architecture.heads, architecture.value_size
        self.plain, self.rotated = latent.plain_size, architecture.rotary.size
        self.rank = latent.key_value_rank
        self.interleaved = architecture.rotary.interleaved
        self.compressed = latent.query_rank is not None
        if self.compressed:
            self.q_a_proj = Linear(weights, f"{module}.q_a_proj", lora_scale)
            self.q_a_layernorm = RmsNorm(weights, f"{module}.q_a_layernorm", LATENT_EPS)
            self.q_b_proj = Linear(weights, f"{module}.q_b_proj", lora_scale, group)
        else:
            self.q_proj = Linear(weights, f"{module}.q_proj", lora_scale, group)
        self.kv_a_proj_with_mqa = Linear(weights, f"{module}.kv_a_proj_with_mqa", lora_scale)
        self.kv_a_layernorm = RmsNorm(weights, f"{module}.kv_a_layernorm", LATENT_EPS)
        self.kv_b_proj = Linear(weights, f"{module}.kv_b_proj", lora_scale, group)
        self.o_proj = Linear(weights, f"{module}.o_proj", lora_scale, group)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[S, E]`` -> ``[S, E]``."""
        tokens = x.shape[0]
        small = self.kv_a_proj_with_mqa(x)
        latent = self.kv_a_layernorm(small[:, : self.rank])
        asked = self.q_a_layernorm(self.q_a_proj(x)) if self.compressed else x
        shared = small[:, self.rank :]
        if self.sliced:
            entered = self.enter(native.cat((asked, latent, shared), 1))
            width = asked.shape[1]
            asked, latent = entered[:, :width], entered[:, width : width + self.rank]
            shared = entered[:, width + self.rank :]
        queries = self.q_b_proj(asked) if self.compressed else self.q_proj(asked)
        queries = queries.reshape(tokens, self.heads, self.plain + self.rotated)
        turned = ops.rotate(queries[:, :, self.plain :], cos, sin, self.interleaved)
        queries = native.cat((queries[:, :, : self.plain], turned), -1)
        keys, values = self.keys_and_values(latent, shared, cos, sin)
        mixed = self.attend(self.layer, queries, keys, values, plan)
        return self.o_proj(mixed.reshape(tokens, self.heads * self.value_size))

    def keys_and_values(self, latent: Tensor, shared: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Normed latents and the rotated part of the keys ``[S, R]`` -> keys ``[S, H, P + R]``, values ``[S, H, Dv]``."""
        tokens = latent.shape[0]
        expanded = self.kv_b_proj(latent)
        expanded = expanded.reshape(tokens, self.heads, self.plain + self.value_size)
        shared = ops.rotate(shared.reshape(tokens, 1, self.rotated), cos, sin, self.interleaved)
        shared = native.broadcast_to(shared, (tokens, self.heads, self.rotated))
        return native.cat((expanded[:, :, : self.plain], shared), -1), expanded[:, :, self.plain :]
