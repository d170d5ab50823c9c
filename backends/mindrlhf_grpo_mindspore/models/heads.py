"""Heads beside the vocabulary: a value per token, a score per sequence.

Legend: S tokens, E hidden size, R sequences, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from .. import ops

VALUE_WEIGHT, VALUE_BIAS, SCORE_WEIGHT = "value_head.weight", "value_head.bias", "score.weight"


def value_head_weights(hidden: int) -> dict[str, Parameter]:
    """Of a fresh value head: every value is 0."""
    return {
        VALUE_WEIGHT: Parameter(Tensor(np.zeros((1, hidden), np.float32)), name=VALUE_WEIGHT),
        VALUE_BIAS: Parameter(Tensor(np.zeros(1, np.float32)), name=VALUE_BIAS),
    }


class ValueHead(nn.Cell):
    """Expected return after each token."""

    def __init__(self, weights: Mapping[str, Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias = weights[VALUE_WEIGHT], weights[VALUE_BIAS]

    def construct(self, hidden: Tensor) -> Tensor:
        """Hidden states after the final norm ``[S, E]`` -> ``[S]`` float32."""
        return ops.linear(hidden.astype(ms.float32), self.weight, self.bias).squeeze(-1)


class ScoreHead(nn.Cell):
    """Scores of whole sequences, read at their last tokens: the head of transformers' sequence classifiers."""

    def __init__(self, weights: Mapping[str, Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.weight = weights[SCORE_WEIGHT]

    def construct(self, hidden: Tensor, last: Tensor) -> Tensor:
        """Hidden states after the final norm ``[S, E]``, places of the last tokens ``[R]`` -> ``[R, C]`` float32."""
        return ops.linear(native.gather(hidden, last, 0), self.weight).astype(ms.float32)
