"""REINFORCE++ with baseline: the mean of the group is taken off before whitening over tokens."""

from __future__ import annotations

from ..algorithm import Algorithm
from .dr_grpo import dr_grpo

ALGORITHM = Algorithm(
    name="reinforce_pp_baseline",
    estimator=dr_grpo,
    formula="R − mean_g",
    source="[REINFORCE++](https://arxiv.org/abs/2501.03262)",
    peers="verl `reinforce_plus_plus_baseline`; openrlhf `reinforce_baseline`",
    returns="sum",
)
