"""PPO: generalised advantage estimates of token rewards and a critic's values."""

from __future__ import annotations

from ...advantages import total_reward
from ..algorithm import Algorithm

ALGORITHM = Algorithm(
    name="ppo",
    estimator=total_reward,
    formula="R",
    source="[PPO](https://arxiv.org/abs/1707.06347)",
    peers="trl, verl, openrlhf, mindrlhf",
    returns="gae",
    group_size=1,
)
