"""Metrics of a step's episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..types import Episode, FinishReason


def environment_metrics(
    episodes: Sequence[tuple[Episode | None, FinishReason]], *, prefix: str = "environment"
) -> dict[str, float]:
    """Turns, calls, failures and truncations of the episodes of all ranks; nothing without any.

    ``calls/NAME`` are means per rollout, ``used_frac`` counts rollouts that called a tool there is, ``failed_calls`` a share of the calls, ``seconds`` a mean per rollout, the rest
    shares of the rollouts.
    """
    played = [(episode, finish) for episode, finish in episodes if episode is not None]
    if not played:
        return {}
    calls: Counter[str] = Counter()
    for episode, _ in played:
        calls.update(episode.calls)
    count, total = len(played), sum(calls.values())
    return {
        f"{prefix}/turns": sum(episode.turns for episode, _ in played) / count,
        f"{prefix}/seconds": sum(episode.seconds for episode, _ in played) / count,
        f"{prefix}/used_frac": sum(any(episode.calls.keys() - {""}) for episode, _ in played) / count,
        f"{prefix}/failed_calls": sum(episode.failed_calls for episode, _ in played) / max(1, total),
        f"{prefix}/failed_frac": sum(bool(episode.failure) for episode, _ in played) / count,
        f"{prefix}/truncated_by_turns": sum(finish is FinishReason.TURNS for _, finish in played) / count,
        f"{prefix}/truncated_by_tokens": sum(finish is FinishReason.LENGTH for _, finish in played) / count,
        **{f"{prefix}/calls/{name or 'unreadable'}": number / count for name, number in sorted(calls.items())},
    }
