"""Losses over an array namespace ``xp``: the same lines are the NumPy reference and the loss of each backend.

A loss is a plain sum. Token-mean, sequence-mean and the like are weights per token, made once for the global batch: see
``batches.online.loss_weights``. Masked positions are replaced before anything is computed from them, so whatever they
hold reaches neither the loss nor a gradient. What several algorithms share is here; a loss of one algorithm stands in
that algorithm's file (``algorithms/online``, ``algorithms/offline``).
"""

from __future__ import annotations

from .kl import KL_ESTIMATORS, kl
from .policy import PolicyLoss, row_mean
from .value import ValueLoss

__all__ = ["KL_ESTIMATORS", "PolicyLoss", "ValueLoss", "kl", "row_mean"]
