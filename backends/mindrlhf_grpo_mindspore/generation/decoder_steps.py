"""The forward passes compiled for generation, each for one static shape; ``sampling_step`` adds the head.

Legend: n rows (slots ``0..n-1``), S tokens of a batch of prompts, M prompts in it, E hidden size, L places of a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.architecture import Architecture

from ..models import Decoder
from ..models.tensor_group import ALONE, TensorGroup
from ..models.weight_slices import WeightSlices
from .cache_attention import PromptAttention, SlotAttention, causal_bias, segment_bias
from .kv_cache import Bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that an engine computes: its weights may be those of a policy in training.

    Attributes:
        group: the ranks that hold slices of it, of which ``weights`` are this rank's.
        slices: how they are cut; None: they are not.
    """

    architecture: Architecture
    weights: Mapping[str, Parameter]
    lora_scale: float = 0.0
    group: TensorGroup = ALONE
    slices: WeightSlices | None = None

    @property
    def dtype(self) -> ms.Type:
        return self.weights["model.embed_tokens.weight"].dtype

    @property
    def own(self) -> Architecture:
        """The architecture that this rank computes: its share of the heads."""
        return self.group.own(self.architecture)

    def decoder(self, attend: nn.Cell) -> Decoder:
        """A decoder over the weights."""
        return Decoder(self.architecture, self.weights, attend, lora_scale=self.lora_scale, group=self.group)


class PromptStep(nn.Cell):
    """Prompts laid one after another: stores their keys and values, returns the hidden states at their ends."""

    def __init__(self, model: Model, stored: list[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.decoder = model.decoder(PromptAttention(model.own, 1, stored))

    def construct(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Ids, positions and segments ``[3, S]``, places of the last tokens ``[M]`` -> ``[M, E]``."""
        hidden = self.decoder(tokens[0], tokens[1], (segment_bias(tokens[2]),))
        return native.gather(hidden, ends, 0)


class DecodeStep(nn.Cell):
    """One token of every slot ``0..n-1``, over the contents of the slots."""

    def __init__(self, model: Model, bucket: Bucket, rows: int) -> None:
        super().__init__(auto_prefix=False)
        self.attend = SlotAttention(model.own, bucket, rows)
        self.decoder = model.decoder(self.attend)

    def construct(self, tokens: Tensor) -> Tensor:
        """Ids and positions ``[2, n]`` -> ``[n, E]``."""
        return self.decoder(tokens[0], tokens[1], self.attend.plan(tokens[1]))


class SequenceStep(nn.Cell):
    """Full sequences, without a cache."""

    def __init__(self, model: Model, rows: int, length: int) -> None:
        super().__init__(auto_prefix=False)
        self.decoder = model.decoder(PromptAttention(model.own, rows, []))
        self.bias = causal_bias(length)
        self.positions = native.tile(native.arange(length).astype(ms.int32), (rows,))

    def construct(self, ids: Tensor, ends: Tensor) -> Tensor:
        """Ids ``[n * L]``, places of the last tokens ``[n]`` among them -> ``[n, E]``."""
        return native.gather(self.decoder(ids, self.positions, (self.bias,)), ends, 0)
