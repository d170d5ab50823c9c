"""The decoder: embedding, layers, final norm and head over a flat list of tokens.

Only ``attend`` knows which tokens belong together: its ``construct(layer, queries [S, H, D], keys [S, K, D], values
[S, K, Dv], plan) -> [S, H, Dv]`` mixes tokens and owns the scale of the scores (``architecture.attention_scale``).
``plan`` is a tuple of tensors that the caller hands through to it. Everything else is computed token by token.
Legend: S tokens, E hidden size, H query heads, K key/value heads, D size of a query or key, Dv of a value, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.architecture import Architecture

from .. import ops
from .attention import Attention
from .experts import Experts
from .feed_forward import FeedForward
from .latent_attention import LatentAttention
from .norms import RmsNorm
from .rotary import RotaryAngles
from .tensor_group import ALONE, GatherSlices, SlicedEmbedding, TensorGroup


class DecoderLayer(nn.Cell):
    """Attention and feed-forward, each normed and added to the stream."""

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
        module, eps = f"model.layers.{layer}", architecture.norm_eps
        attention = LatentAttention if architecture.latent else Attention
        self.self_attn = attention(architecture, weights, layer, attend, lora_scale, group)
        if architecture.experts and layer >= architecture.experts.first_layer:
            self.mlp: nn.Cell = Experts(architecture, weights, f"{module}.mlp", lora_scale, group)
        else:
            self.mlp = FeedForward(weights, f"{module}.mlp", lora_scale, group, fused=architecture.fused_gate_up)
        self.input_layernorm = RmsNorm(weights, f"{module}.input_layernorm", eps)
        self.post_attention_layernorm = RmsNorm(weights, f"{module}.post_attention_layernorm", eps)
        self.sandwich = architecture.sandwich_norms
        if self.sandwich:
            self.post_self_attn_layernorm = RmsNorm(weights, f"{module}.post_self_attn_layernorm", eps)
            self.post_mlp_layernorm = RmsNorm(weights, f"{module}.post_mlp_layernorm", eps)

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[S, E]`` -> ``[S, E]``."""
        mixed = self.self_attn(self.input_layernorm(x), cos, sin, plan)
        if self.sandwich:
            mixed = self.post_self_attn_layernorm(mixed)
        x = x + mixed
        changed = self.mlp(self.post_attention_layernorm(x))
        if self.sandwich:
            changed = self.post_mlp_layernorm(changed)
        return x + changed


class Decoder(nn.Cell):
    """A decoder over weights that several decoders may share.

    Args:
        weights: parameters by Hugging Face name; LoRA adapters as ``<module>.lora_A.weight``, ``.lora_B.weight``.
        attend: mixes tokens, see above.
        lora_scale: factor of the adapters; 0 leaves them out (the reference of a LoRA run).
        recompute: compute the layers again in the backward pass instead of keeping their intermediates.
        group: the ranks that hold slices of the weights, of which ``weights`` are this rank's.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Parameter],
        attend: nn.Cell,
        *,
        lora_scale: float = 0.0,
        recompute: bool = False,
        group: TensorGroup = ALONE,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.architecture = architecture
        self.embedding = weights["model.embed_tokens.weight"]
        self.head = self.embedding if architecture.tied else weights.get("lm_head.weight")
        self.angles = RotaryAngles(architecture.rotary, self.embedding.dtype)
        self.sliced = group.size > 1
        if self.sliced:
            self.sliced_embedding, self.gather = SlicedEmbedding(self.embedding, group), GatherSlices(group)
        layers = [DecoderLayer(architecture, weights, i, attend, lora_scale, group) for i in range(architecture.layers)]
        self.layers = nn.CellList(layers, auto_prefix=False)
        self.norm = RmsNorm(weights, "model.norm", architecture.norm_eps)
        if recompute:
            self.keep_inputs_only()

    def keep_inputs_only(self) -> None:
        """Let the backward pass compute every layer again from its input."""
        for layer in self.layers:
            layer.recompute()
            for _, cell in layer.cells_and_names():
                if isinstance(cell, RmsNorm | FeedForward):
                    cell.recomputed = True

    def construct(self, ids: Tensor, positions: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        """``[S]`` int32 twice -> hidden states after the final norm ``[S, E]``."""
        cos, sin = self.angles(positions)
        x = self.embedded(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, plan)
        return self.norm(x)

    def embedded(self, ids: Tensor) -> Tensor:
        """``[S]`` int32 -> ``[S, E]``."""
        return self.sliced_embedding(ids) if self.sliced else native.gather(self.embedding, ids, 0)

    def layer_ends(self, ids: Tensor, positions: Tensor, plan: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hidden states ``[S, E]`` after the embedding and after each layer, before the final norm."""
        cos, sin = self.angles(positions)
        x = self.embedded(ids)
        ends: tuple[Tensor, ...] = (x,)
        for layer in self.layers:
            x = layer(x, cos, sin, plan)
            ends = (*ends, x)
        return ends

    def normed(self, x: Tensor) -> Tensor:
        """Apply the final norm."""
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[R, E]`` after the final norm -> ``[R, V]`` float32."""
        if self.head is None:
            raise ConfigError("a sequence classifier has no vocabulary head; accepted here: a causal LM")
        logits = ops.linear(hidden, self.head).astype(ms.float32)
        return self.gather(logits) if self.sliced else logits

    def update_parameters_name(self, prefix: str = "", recurse: bool = True) -> None:
        """Do nothing: weights keep their Hugging Face names whatever cell holds the decoder."""
