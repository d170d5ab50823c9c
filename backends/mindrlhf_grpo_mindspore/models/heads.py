"""A head beside the vocabulary: scores of whole sequences.

Legend: S tokens, E hidden size, R sequences, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native

from .. import ops

SCORE_WEIGHT = "score.weight"


class ScoreHead(nn.Cell):
    """Scores of whole sequences, read at their last tokens: the head of transformers' sequence classifiers."""

    def __init__(self, weights: Mapping[str, Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.weight = weights[SCORE_WEIGHT]

    def construct(self, hidden: Tensor, last: Tensor) -> Tensor:
        """Hidden states after the final norm ``[S, E]``, places of the last tokens ``[R]`` -> ``[R, C]`` float32."""
        return ops.linear(native.gather(hidden, last, 0), self.weight).astype(ms.float32)
