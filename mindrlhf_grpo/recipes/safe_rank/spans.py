"""The rank of each token of a list, and the length shaping of its advantage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

from ...batches.items import NONE, line_numbers, starts
from .parsing import parse


def ranks(
    text: str, ends: Sequence[int], ended: bool, items: int, segment_mode: Literal["aligned", "newline"] = "aligned",
    apply_extra_length_shaping: bool = True, end_of_list_reward: float = 0.1, extra_token_penalty: float = 0.1,
    early_stop_penalty: float = 0.1,
) -> tuple[list[int], list[float]]:  # fmt: skip
    """Return the rank of each token from 0, and the number added to its advantage; for ``items.function``.

    Args:
        segment_mode: ``aligned`` follows the parser: a token has the rank of the item whose line it stands in, and none
            in a line that is not an item (preamble, thoughts); blank lines belong to the item before them. ``newline`` counts
            the newlines before a token, so that blank lines and preamble shift ranks away from what the rewards saw.
            For a correct list both are the same.
        apply_extra_length_shaping: add the three constants below, which are not normalised.
        end_of_list_reward: for the end token after enough items and no token past them.
        extra_token_penalty: for each token past the last rank.
        early_stop_penalty: for the end token after too few items.
    """
    if segment_mode == "newline":
        token_ranks = line_numbers(text, ends)
        listed = max(token_ranks[:-1] if ended else token_ranks, default=-1) + 1
    else:
        parsed = parse(text)
        opening, listed = [item.start for item in parsed], len(parsed)
        at = [bisect_right(opening, start) - 1 for start in starts(ends)]
        in_item = [place >= 0 and start < parsed[place].end for place, start in zip(at, starts(ends), strict=True)]
        token_ranks = [place if inside else NONE for place, inside in zip(at, in_item, strict=True)]
    token_ranks = [min(place, items) for place in token_ranks]
    if ended:
        token_ranks[-1] = items + 1
    extra = [-extra_token_penalty if place == items else 0.0 for place in token_ranks]
    if ended and listed < items:
        extra[-1] = -early_stop_penalty
    elif ended and items not in token_ranks:
        extra[-1] = end_of_list_reward
    return token_ranks, extra if apply_extra_length_shaping else [0.0] * len(token_ranks)
