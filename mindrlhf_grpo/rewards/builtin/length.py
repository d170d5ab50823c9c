"""Length in tokens: a shaping reward, and the soft overlong penalty.

Lengths are those of ``completion_ids``: the sampled tokens, including the end token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ...errors import ConfigError

Tokens = Annotated[int, Field(ge=1)]


def length(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    tokens: Tokens,
    prefer: Literal["target", "short", "long"] = "target",
) -> list[float]:
    """Return a reward in 0..1 that is linear in the number of tokens n.

    ``target``: 1 - |n - tokens| / tokens; ``short``: 1 - n / tokens; ``long``: n / tokens.
    """

    def shaped(count: int) -> float:
        ratio = count / tokens
        value = {"target": 1 - abs(ratio - 1), "short": 1 - ratio, "long": ratio}[prefer]
        return min(max(value, 0.0), 1.0)

    return [shaped(len(ids)) for ids in completion_ids]


def overlong(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    max_tokens: Tokens,
    buffer: Tokens,
    factor: Annotated[float, Field(ge=0)] = 1.0,
) -> list[float]:
    """Return the soft overlong punishment (DAPO, https://arxiv.org/abs/2503.14476, eq. 13), capped.

    0 up to ``max_tokens - buffer`` tokens, then falling linearly to ``-factor`` at ``max_tokens`` and beyond.
    """
    check_overlong({"max_tokens": max_tokens, "buffer": buffer})
    free = max_tokens - buffer
    return [0.0 - factor * min(max(len(ids) - free, 0) / buffer, 1.0) for ids in completion_ids]


def check_overlong(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a buffer above the greatest length."""
    buffer, most = settings["buffer"], settings["max_tokens"]
    if buffer > most:
        raise ConfigError(f"reward overlong: buffer ({buffer}) is above max_tokens ({most})")
