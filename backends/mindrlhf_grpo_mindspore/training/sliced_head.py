"""The output head over a vocabulary cut over a tensor group: exact log-probs and entropies, without whole logits.

Each rank reduces the logits of its ids to a few numbers for each position, which the group sums (as Megatron-LM's
vocab-parallel cross-entropy, https://arxiv.org/abs/1909.08053, section 3). The backward pass is MindSpore's own; its
collectives are those of ``EnterSlices`` and ``LeaveSlices``. Unlike ``head.LinearHead`` it keeps the logits of this
rank's ids until then.
Legend: R positions, V vocabulary, E hidden size, t ranks of the group.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn
from mindspore import ops as native

from ..models.tensor_group import EnterSlices, GroupGather, LeaveSlices, TensorGroup
from .head import scaled_logits


class SlicedHead(nn.Cell):
    """log softmax(hidden @ weight.T / temperature) at the targets, from each rank's rows of the weight."""

    def __init__(self, vocabulary: int, group: TensorGroup) -> None:
        super().__init__(auto_prefix=False)
        self.own, self.ranks = vocabulary // group.size, group.size
        self.first = group.rank * self.own
        self.gather = GroupGather(group)
        self.enter, self.leave = EnterSlices(group), LeaveSlices(group)

    def construct(self, hidden: Tensor, weight: Tensor, targets: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """``[R, E]``, ``[V / t, E]``, ``[R]``, 1 / temperature -> log-probs ``[R]`` float32 and entropies ``[R]``."""
        logits = scaled_logits(self.enter(hidden), weight, sharpness)
        tops = self.gather(native.stop_gradient(logits).max(-1)).reshape(self.ranks, -1)
        below = logits - native.stop_gradient(tops.max(0)).reshape(-1, 1)  # the largest of all ranks' logits
        places = targets - self.first
        inside = native.logical_and(places >= 0, places < self.own)
        places = places * inside.astype(ms.int32)
        targeted = native.gather_elements(below, 1, places.reshape(-1, 1)).reshape(-1) * inside.astype(ms.float32)
        weights = native.exp(below)
        sums = self.leave(native.stack((weights.sum(-1), (weights * below).sum(-1), targeted)))
        log_total = native.log(sums[0])
        return sums[2] - log_total, log_total - sums[1] / sums[0]
