"""Mixture of experts with shared experts and sigmoid routing (DeepSeek-V3, https://arxiv.org/abs/2412.19437, 2.1.2).

A correction per expert changes which experts are chosen, not their shares; it is part of the weights and not trained.
Legend: S tokens, E hidden size, X experts, N chosen for a token, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.architecture import Architecture

from .. import ops
from .feed_forward import FeedForward
from .tensor_group import ALONE, LeaveSlices, TensorGroup, enter

EXCLUDED = -1e30
NO_DIVISION_BY_ZERO = 1e-20


class Router(nn.Cell):
    """The router: the experts of each token and their shares, in float32."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, Parameter], module: str) -> None:
        super().__init__(auto_prefix=False)
        sizes = architecture.experts
        assert sizes is not None
        self.weight = weights[f"{module}.weight"]
        self.correction = weights[f"{module}.e_score_correction_bias"]
        self.count, self.chosen = sizes.count, sizes.chosen
        self.groups, self.chosen_groups = sizes.groups, sizes.chosen_groups
        self.normalised, self.scale = sizes.normalised, sizes.scale

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[S, E]`` -> chosen ``[S, N]`` int32, shares ``[S, N]``."""
        scores = native.sigmoid(ops.linear(x.astype(ms.float32), self.weight.astype(ms.float32)))
        corrected = native.stop_gradient(scores) + self.correction
        if self.groups > 1:
            corrected = self.within_groups(corrected)
        _, chosen = native.topk(corrected, self.chosen)
        shares = native.gather_elements(scores, 1, chosen)
        if self.normalised:
            shares = shares / (shares.sum(-1, keepdims=True) + NO_DIVISION_BY_ZERO)
        return chosen.astype(ms.int32), shares * self.scale

    def within_groups(self, scores: Tensor) -> Tensor:
        """Scores ``[S, X]``, excluded outside the groups whose two best experts have the highest sums."""
        grouped = scores.reshape(-1, self.groups, self.count // self.groups)
        best, _ = native.topk(grouped, 2)
        _, chosen = native.topk(best.sum(-1), self.chosen_groups)
        inside = native.one_hot(chosen, self.groups, 1, 0).sum(1).expand_dims(-1) > 0
        return native.select(native.broadcast_to(inside, grouped.shape), grouped, EXCLUDED).reshape(-1, self.count)


class Experts(nn.Cell):
    """Routed experts plus the shared ones that every token passes."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Parameter],
        module: str,
        lora_scale: float,
        group: TensorGroup = ALONE,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.sliced, self.enter = group.size > 1, enter(group)
        if self.sliced:
            self.leave = LeaveSlices(group)
        self.gate = Router(architecture, weights, f"{module}.gate")
        self.gate_up = weights[f"{module}.experts.gate_up_proj"]
        self.down = weights[f"{module}.experts.down_proj"]
        self.shared = FeedForward(weights, f"{module}.shared_experts", lora_scale, group, fused=False, inside=True)

    def construct(self, x: Tensor) -> Tensor:
        """``[S, E]`` -> ``[S, E]``."""
        chosen, shares = self.gate(x)
        if self.sliced:  # every rank routes all tokens, and computes its slice of the inner width of every expert
            entered = self.enter(native.cat((x.astype(shares.dtype), shares), 1))
            x, shares = entered[:, : x.shape[1]].astype(x.dtype), entered[:, x.shape[1] :]
            return self.leave(ops.experts(x, self.gate_up, self.down, chosen, shares) + self.shared(x))
        return ops.experts(x, self.gate_up, self.down, chosen, shares) + self.shared(x)
