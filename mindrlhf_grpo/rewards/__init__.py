"""Reward functions, their weights and their guards."""

from __future__ import annotations

from .protocol import RewardFunction
from .rewards import Rewards
from .table import RewardTable

__all__ = ["RewardFunction", "RewardTable", "Rewards"]
