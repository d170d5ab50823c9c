"""A decoder as a function from completions to per-token log-probs, in the configured layout."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.architecture import Architecture

from ..models import Decoder
from ..models.tensor_group import ALONE, TensorGroup
from .attention import PlainAttention, SharedAttention
from .head import EntropyHead, LinearHead
from .sliced_head import SlicedHead

ATTENTION = {"shared": SharedAttention, "plain": PlainAttention}
INPUTS = 6  # tensors of a ModelInput before its plan


class LogProbModel(nn.Cell):
    """Body and head; compiled as part of a train step or alone.

    Args:
        entropy_gradient: true if the loss reads entropies, so that they need a gradient.
        group: the ranks that hold slices of the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Parameter],
        layout: str,
        *,
        lora_scale: float = 0.0,
        recompute: bool = False,
        entropy_gradient: bool = False,
        group: TensorGroup = ALONE,
    ) -> None:
        super().__init__(auto_prefix=False)
        attend = ATTENTION[layout](architecture.attention_scale, recomputed=recompute)
        self.decoder = Decoder(architecture, weights, attend, lora_scale=lora_scale, recompute=recompute, group=group)
        if group.size > 1:
            self.head: nn.Cell = SlicedHead(architecture.vocabulary, group)
        else:
            self.head = (EntropyHead if entropy_gradient else LinearHead)(architecture.vocabulary)
        self.entropy_gradient = entropy_gradient
        self.head_weight = weights["model.embed_tokens.weight" if architecture.tied else "lm_head.weight"]

    def construct(self, sharpness: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """``ModelInput.tensors`` and 1 / temperature -> log-probs and entropies ``[N, T]``, 0 past each length."""
        hidden = self.decoder(inputs[0], inputs[1], inputs[INPUTS:])
        return self.predict(hidden, sharpness, inputs)

    def logps(self, sharpness: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Log-probs alone."""
        return (self.construct(sharpness, *inputs)[0],)

    def predict(self, hidden: Tensor, sharpness: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Hidden states after the final norm ``[S, E]`` -> log-probs and entropies ``[N, T]``."""
        predictors, targets, rows, inside = inputs[2:INPUTS]
        chosen = native.gather(hidden, predictors, 0)
        logps, entropies = self.head(chosen, self.head_weight, targets, sharpness)
        if not self.entropy_gradient:
            entropies = native.stop_gradient(entropies)
        return in_rows(logps, rows, inside), in_rows(entropies, rows, inside)

    def layer_ends(self, sharpness: Tensor, *inputs: Tensor) -> Tensor:
        """``[L + 1, N, T]``: log-probs read off after the embedding and after each layer."""
        ends = self.decoder.layer_ends(inputs[0], inputs[1], inputs[INPUTS:])
        return native.stack([self.predict(self.decoder.normed(end), sharpness, inputs)[0] for end in ends])


def in_rows(values: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    """``[R]`` -> ``[N, T]``, zeros elsewhere."""
    placed = native.gather(values, rows.reshape(-1), 0).reshape(rows.shape)
    return native.select(inside > 0, placed, native.zeros_like(placed))
