"""Rewards of the ladder's third and fourth stage. Their code is not public; these follow the paper's description."""

from __future__ import annotations

from typing import Any

from .rules import rule_reward


def efficiency(
    completions: list[str], completion_ids: list[list[int]], reference: list[Any], max_tokens: int
) -> list[float]:
    """Score right answers by 1 minus the share of ``max_tokens`` used, others 0, so that short wrong answers gain nothing."""
    rows = zip(completions, completion_ids, reference, strict=True)
    return [rule_reward(text, gold) * (1.0 - min(len(ids) / max_tokens, 1.0)) for text, ids, gold in rows]


def search_verification(completions: list[str], reference: list[Any]) -> list[float]:
    """Score a search in the thought with fitting confidence: 1 for right and ``<sure>``, 0.5 for wrong and ``<unsure>``, else 0."""

    def value(text: str, gold: Any) -> float:
        thought = text.rpartition("</think>")[0]
        if not 0 <= thought.find("<search>") < thought.find("</search>"):
            return 0.0
        right = rule_reward(text, gold) == 1.0
        return float(right and "<sure>" in text) + 0.5 * (not right and "<unsure>" in text)

    return [value(text, gold) for text, gold in zip(completions, reference, strict=True)]
