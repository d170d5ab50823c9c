"""The mathematics of advantages, pure NumPy in float64 on the host: group statistics, totals, tokens, whitening.

An estimator itself stands in the file of its algorithm (``algorithms/online``); ``estimator`` says how it is called.
"""

from __future__ import annotations

from .estimator import READABLE, WHITENINGS, Estimator, EstimatorInputs, Whitening, estimate, reads
from .group_statistics import (
    Table,
    centre,
    check_shapes,
    group_z_score,
    leave_one_out_z_score,
    spread,
    unscored_to_zero,
)
from .rewards import kl_penalised, total_reward, weighted_total
from .tokens import gae, moments, reinforce_pp, to_tokens, token_rewards, whiten_tokens

__all__ = [
    "READABLE", "WHITENINGS", "Estimator", "EstimatorInputs", "Table", "Whitening", "centre", "check_shapes", "estimate",
    "gae", "group_z_score", "kl_penalised", "leave_one_out_z_score", "moments", "reads", "reinforce_pp", "spread",
    "to_tokens", "token_rewards", "total_reward", "unscored_to_zero", "weighted_total", "whiten_tokens",
]  # fmt: skip
