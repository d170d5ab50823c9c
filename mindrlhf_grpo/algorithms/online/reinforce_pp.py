"""REINFORCE++: token rewards summed to the end of the completion, whitened over the tokens of the batch."""

from __future__ import annotations

from ...advantages import total_reward
from ..algorithm import Algorithm

ALGORITHM = Algorithm(
    name="reinforce_pp",
    estimator=total_reward,
    formula="R",
    source="[REINFORCE++](https://arxiv.org/abs/2501.03262)",
    peers="verl `reinforce_plus_plus`; openrlhf `reinforce`",
    returns="sum",
    group_size=1,
)
