"""Which item of a completion each token belongs to, for rewards per item (``[N, K]``).

Items are lines, as in Rank-GRPO (https://arxiv.org/abs/2510.20150): the k-th line is the k-th item and a
newline belongs to the line it ends. Legend: N completions, T longest completion, K items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .batching import completion_lengths
from .data.tokenizer import Tokenizer
from .types import RolloutGroup


def by_line(groups: Sequence[RolloutGroup], tokenizer: Tokenizer, items: int) -> NDArray[np.int32]:
    """Line number of each token ``[N, T]``; -1 for tokens past the ``items``-th line and past a completion's end."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    segments = np.full((len(rollouts), int(completion_lengths(groups).max(initial=0))), -1, np.int32)
    newlines: dict[int, int] = {}
    for row, rollout in enumerate(rollouts):
        tokens = [int(token) for token in rollout.ids]
        for token in set(tokens) - newlines.keys():
            newlines[token] = tokenizer.decode([token]).count("\n")
        ended = np.cumsum([0, *(newlines[token] for token in tokens[:-1])])
        segments[row, : len(tokens)] = np.where(ended < items, ended, -1)[: len(tokens)]
    return segments
