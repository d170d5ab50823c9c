"""Rewards: functions, reward models and judges, with their weights and guards, scored into one table.

A user adds one in a file of their own (docs/extend/add_a_reward.md); a built-in one is a file under ``builtin``.
"""

from __future__ import annotations

from .protocol import RewardFunction
from .rewards import Rewards
from .table import RewardTable

__all__ = ["RewardFunction", "RewardTable", "Rewards"]
