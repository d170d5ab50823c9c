"""Losses over an array namespace ``xp``: the same lines are the NumPy reference and the loss of each backend.

A loss is a plain sum. Token-mean, sequence-mean and the like are weights per token, made once for the global
batch: see ``batching.loss_weights``. Masked positions are replaced before anything is computed from them, so
whatever they hold reaches neither the loss nor a gradient.
"""

from __future__ import annotations

from .kl import KL_ESTIMATORS, kl
from .policy import PolicyLoss
from .ratios import (
    CispoPolicyLoss,
    CpgdPolicyLoss,
    GeometricPolicyLoss,
    ItemPolicyLoss,
    SapoPolicyLoss,
    SequencePolicyLoss,
)
from .registry import POLICY_LOSSES, policy_loss
from .value import ValueLoss

__all__ = [
    "KL_ESTIMATORS", "POLICY_LOSSES", "CispoPolicyLoss", "CpgdPolicyLoss", "GeometricPolicyLoss", "ItemPolicyLoss",
    "PolicyLoss", "SapoPolicyLoss", "SequencePolicyLoss", "ValueLoss", "kl", "policy_loss",
]  # fmt: skip
