"""The output head: from hidden states to log-probs of given tokens, a chunk of positions at a time.

The logits of a batch never exist at once: those of each chunk are reduced, dropped, and computed again in the backward
pass. The temperature scales hidden states, so it is an input, and a new one does not compile again.
Legend: R positions, C positions of a chunk, V vocabulary, E hidden size.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn
from mindspore import ops as native

CHUNK_LOGITS = 2**25  # logits that exist at once: 128 MB
LEAST_CHUNK = 64


class LinearHead(nn.Cell):
    """log softmax(hidden @ weight.T / temperature) at the targets, for an output projection that is one matrix.

    The entropies have no gradient.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__(auto_prefix=False)
        self.chunk = max(LEAST_CHUNK, CHUNK_LOGITS // vocabulary)

    def construct(self, hidden: Tensor, weight: Tensor, targets: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """``[R, E]``, ``[V, E]``, ``[R]``, 1 / temperature -> log-probs ``[R]`` float32 and entropies ``[R]``."""
        logps: tuple[Tensor, ...] = ()
        entropies: tuple[Tensor, ...] = ()
        for first in range(0, hidden.shape[0], self.chunk):
            last = first + self.chunk
            all_logps = native.log_softmax(scaled_logits(hidden[first:last], weight, sharpness), -1)
            logps = (*logps, native.gather_elements(all_logps, 1, targets[first:last].reshape(-1, 1)).reshape(-1))
            mean = native.matmul(native.exp(all_logps).expand_dims(1), all_logps.expand_dims(2))
            entropies = (*entropies, -mean.reshape(-1))
        return native.cat(logps, 0), native.cat(entropies, 0)

    def bprop(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        sharpness: Tensor,
        out: tuple[Tensor, Tensor],
        dout: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        """The gradient of a chunk's logits is dout (one-hot - softmax); the one-hot part is added as rows of weights.

        The logits of a single chunk are kept from the forward pass; those of several are computed again.
        """
        if hidden.shape[0] > self.chunk:
            hidden = native.depend(hidden, dout[0])  # or the compiler would keep the logits of the forward pass
        drawn = hidden.astype(ms.float32) * (-dout[0] * sharpness).reshape(-1, 1)
        expected: tuple[Tensor, ...] = ()
        to_weight = drawn
        for first in range(0, hidden.shape[0], self.chunk):
            last = first + self.chunk
            shares = native.softmax(scaled_logits(hidden[first:last], weight, sharpness), -1).astype(weight.dtype)
            expected = (*expected, native.matmul(shares, weight))
            part = native.MatMul(True, False)(shares, drawn[first:last].astype(weight.dtype)).astype(ms.float32)
            to_weight = part if first == 0 else to_weight + part
        to_hidden = (native.gather(weight, targets, 0) - native.cat(expected, 0)).astype(ms.float32)
        to_hidden = to_hidden * (dout[0] * sharpness).reshape(-1, 1)
        to_weight = native.tensor_scatter_add(to_weight, targets.reshape(-1, 1), -drawn)
        gradients = (to_hidden.astype(hidden.dtype), to_weight.astype(weight.dtype))
        return (*gradients, native.zeros_like(targets), native.zeros_like(sharpness))


class EntropyHead(LinearHead):
    """``LinearHead`` with a gradient of the entropies H too: dH/dz_j = -p_j (log p_j + H)."""

    def bprop(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        sharpness: Tensor,
        out: tuple[Tensor, Tensor],
        dout: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        """The gradient of ``LinearHead``, plus that of the entropies: softmax * (log-prob + entropy) per logit."""
        if hidden.shape[0] > self.chunk:
            hidden = native.depend(hidden, dout[0])
        chosen, spread = (dout[0] * sharpness).reshape(-1, 1), (dout[1] * sharpness).reshape(-1, 1)
        wide, entropies = hidden.astype(ms.float32), out[1].reshape(-1, 1)
        expected: tuple[Tensor, ...] = ()
        to_weight = wide
        for first in range(0, hidden.shape[0], self.chunk):
            last = first + self.chunk
            logits = scaled_logits(hidden[first:last], weight, sharpness)
            log_slopes = native.log_softmax(logits, -1) + entropies[first:last]
            slopes = native.softmax(logits, -1) * (chosen[first:last] + spread[first:last] * log_slopes)
            slopes = slopes.astype(weight.dtype)
            expected = (*expected, native.matmul(slopes, weight))
            part = native.MatMul(True, False)(slopes, hidden[first:last]).astype(ms.float32)
            to_weight = part if first == 0 else to_weight + part
        to_hidden = native.gather(weight, targets, 0).astype(ms.float32) * chosen
        to_hidden = to_hidden - native.cat(expected, 0).astype(ms.float32)
        to_weight = native.tensor_scatter_add(-to_weight, targets.reshape(-1, 1), wide * chosen)
        gradients = (to_hidden.astype(hidden.dtype), to_weight.astype(weight.dtype))
        return (*gradients, native.zeros_like(targets), native.zeros_like(sharpness))


def scaled_logits(hidden: Tensor, weight: Tensor, sharpness: Tensor) -> Tensor:
    """Float32 logits ``[C, V]`` of one chunk, divided by the temperature."""
    return native.MatMul(False, True)(hidden * sharpness.astype(hidden.dtype), weight).astype(ms.float32)
