"""Advantages: by completion or segment (``estimators``), by token (``tokens``). NumPy on the host, in float64."""

from __future__ import annotations

from .estimators import (
    ESTIMATORS,
    Estimator,
    cpgd,
    dr_grpo,
    grpo,
    kl_penalised,
    loo,
    opo,
    pass_k,
    rank_grpo,
    reinforce_baseline,
    remax,
    rloo,
    to_tokens,
    weighted_total,
)
from .gdpo import WHITENINGS, Further, Whitening, gdpo
from .group_statistics import Table, spread
from .tokens import gae, moments, reinforce_pp, token_rewards, whiten_tokens

__all__ = [
    "ESTIMATORS", "WHITENINGS", "Estimator", "Further", "Table", "Whitening", "cpgd", "dr_grpo", "gae", "gdpo", "grpo",
    "kl_penalised", "loo", "moments", "opo", "pass_k", "rank_grpo", "reinforce_baseline", "reinforce_pp", "remax",
    "rloo", "spread", "to_tokens", "token_rewards", "weighted_total", "whiten_tokens",
]  # fmt: skip
