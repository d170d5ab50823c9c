"""The compiled step of a micro-batch: log-probs, loss, metric sums and the gradient of every trained weight.

Any loss of the core fits: the batch's arrays that it reads, and the names of the sums it returns, are fixed when
the step is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore import ops as native
from numpy.typing import NDArray

from mindrlhf_grpo.backend import Loss
from mindrlhf_grpo.losses import xp as numpy_xp
from mindrlhf_grpo.types import Batch

from .. import xp

OWN_SUMS = ("loss", "tokens")
ENTROPY, ENTROPIES = "entropy", "entropies"
INTEGERS = "segments"


class TrainStep(nn.Cell):
    """One loss over one set of arrays.

    Args:
        model: 1 / temperature and inputs -> outputs for the loss ``[N, T]`` and, for a policy, entropies ``[N, T]``.
        names: the batch's float arrays, stacked in this order.
        segments: whether the loss also gets the item index of each token.
        entropies: whether the model gives entropies.
    """

    def __init__(
        self,
        model: nn.Cell,
        loss: Loss,
        trainable: ParameterTuple,
        names: tuple[str, ...],
        *,
        segments: bool,
        entropies: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.model, self.loss, self.trainable = model, loss, trainable
        self.names, self.segments, self.entropies = names, segments, entropies
        self.reads_entropy = loss.reads_entropy

    def construct(self, sharpness: Tensor, floats: Tensor, segments: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        """``floats`` is ``[K, N, T]`` -> sums in the order of ``sum_names``, gradients."""
        both = ms.value_and_grad(self.value, None, self.trainable, has_aux=True)
        (_, sums), gradients = both(sharpness, floats, segments, inputs)
        return sums, gradients

    def value(
        self, sharpness: Tensor, floats: Tensor, segments: Tensor, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The loss, and all sums as one tensor."""
        outputs = self.model(sharpness, *inputs)
        tensors = {"mask": floats[0]}
        for place, name in enumerate(self.names):
            tensors[name] = floats[place]
        if self.segments:
            tensors["segments"] = segments
        if self.reads_entropy:
            tensors["entropies"] = outputs[1]
        loss, metrics = self.loss(xp, outputs[0], tensors)
        mask = floats[0]
        own: tuple[Tensor, ...] = (loss, mask.sum())
        if self.entropies:
            own = (loss, mask.sum(), (outputs[1] * mask).sum())
        return loss, native.stop_gradient(native.stack((*own, *metrics.values())))


def loss_arrays(
    batch: Batch, rows: int, width: int
) -> tuple[tuple[str, ...], NDArray[np.float32], NDArray[np.int32] | None]:
    """Names and ``[K, N, T]`` of the float arrays that a loss reads, the mask first, and the segments if there are any.

    Padding has mask and weight 0, and lies in no segment.
    """
    named = batch.loss_tensors()
    segments = named.pop(INTEGERS, None)
    floats = np.zeros((len(named), rows, width), np.float32)
    for place, array in enumerate(named.values()):
        floats[place, : array.shape[0], : array.shape[1]] = array
    if segments is None:
        return tuple(named), floats, None
    items = np.full((rows, width), -1, np.int32)
    items[: segments.shape[0], : segments.shape[1]] = segments
    return tuple(named), floats, items


def sum_names(loss: Loss, names: Sequence[str], *, segments: bool, entropies: bool) -> tuple[str, ...]:
    """Names of the sums that a train step returns, found by computing the loss of one token in NumPy."""
    tensors: dict[str, Any] = {name: np.ones((1, 1), np.float32) for name in names}
    if segments:
        tensors[INTEGERS] = np.zeros((1, 1), np.int32)
    if loss.reads_entropy:
        tensors[ENTROPIES] = np.ones((1, 1), np.float32)
    with np.errstate(all="ignore"):
        _, metrics = loss(numpy_xp.NUMPY, np.zeros((1, 1), np.float32), tensors)
    return (*OWN_SUMS, *([ENTROPY] if entropies else []), *metrics)


def named_sums(names: Sequence[str], sums: Tensor) -> Mapping[str, float]:
    """The sums of a step as numbers."""
    return dict(zip(names, sums.asnumpy().tolist(), strict=True))
