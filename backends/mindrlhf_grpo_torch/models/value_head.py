"""The value head on the last hidden state: a linear layer or an MLP, computed in float32 for any body."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mindrlhf_grpo.model_files.value_head import LEAK, ValueHead


class FloatLinear(nn.Module):
    """A linear layer in float32. No ``nn.Linear``: a body's LoRA targets and its dtype do not concern the head."""

    def __init__(self, stored: ValueHead, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(stored.tensors[f"{name}.weight"]))
        bias = stored.tensors.get(f"{name}.bias")
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` of any type -> ``[..., out]`` float32."""
        return F.linear(x.float(), self.weight, self.bias)


class FloatMlp(nn.Module):
    """Several layers with an activation between them, under the names they are stored by."""

    def __init__(self, stored: ValueHead) -> None:
        super().__init__()
        self.activation = stored.activation
        for name in stored.layers:
            self.add_module(name.rpartition(".")[2], FloatLinear(stored, name))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., E]`` -> ``[..., 1]`` float32."""
        for place, layer in enumerate(self.children()):
            x = layer(self.active(x) if place else x)
        return x

    def active(self, x: Tensor) -> Tensor:
        if self.activation == "leaky_relu":
            return F.leaky_relu(x, LEAK)
        return torch.tanh(x) if self.activation == "tanh" else F.relu(x)


def value_head(stored: ValueHead) -> nn.Module:
    """The module ``[..., E]`` -> ``[..., 1]`` of a stored head; its weights have the stored names after ``score.``."""
    layers = stored.layers
    return FloatMlp(stored) if "." in layers[0] else FloatLinear(stored, layers[0])
