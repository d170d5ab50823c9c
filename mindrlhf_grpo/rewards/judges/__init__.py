"""Generative judges as rewards: templates, the models that answer, and the readers of their answers.

To add a judge template, add a row to ``templates``.
"""

from __future__ import annotations

from .judge import JudgeReward

__all__ = ["JudgeReward"]
