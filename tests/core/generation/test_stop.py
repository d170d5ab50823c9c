"""Stop strings over tokenizers whose tokens are more or less than a letter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mindrlhf_grpo.generation.stop_strings import StopStrings


class Pieces:
    """Tokens that are given pieces of UTF-8; piece 0 is special and invisible."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.pieces[token] for token in ids if token).decode(errors="replace")


def first_cut(
    pieces: Sequence[bytes], ids: Sequence[int], *strings: str, min_tokens: int = 0
) -> tuple[int, str] | None:
    """After how many tokens a completion ends, and its text."""
    stop = StopStrings(strings, Pieces(pieces), min_tokens=min_tokens)
    for count in range(1, len(ids) + 1):
        text = stop.cut(ids[:count])
        if text is not None:
            return count, text
    return None


PIECES = [b"", b"a", b"b", b"</", b"ans", b"wer>", b"x</answer>y", b"\n\n", b"\xe2", b"\x82", b"\xac"]


@pytest.mark.parametrize(
    ("ids", "strings", "expected"),
    [
        ([1, 3, 4, 5, 2], ["</answer>"], (4, "a")),
        ([1, 6, 2], ["</answer>"], (2, "ax")),
        ([1, 3, 4, 1, 5], ["</answer>"], None),
        ([1, 7, 2], ["\n", "b"], (2, "a")),
        ([1, 2, 1, 2], ["ba", "ab"], (2, "")),
        ([3, 4, 0, 0, 5], ["</answer>"], (5, "")),
        ([1, 8, 9, 10, 2], ["€"], (4, "a")),
        ([1, 2], [""], None),
        ([1, 2], [], None),
    ],
)
def test_the_completion_ends_with_the_token_that_completes_a_stop_string(
    ids: list[int], strings: list[str], expected: tuple[int, str] | None
) -> None:
    assert first_cut(PIECES, ids, *strings) == expected


def test_a_stop_string_completed_too_early_does_not_count() -> None:
    assert first_cut(PIECES, [1, 2, 1, 1, 1, 2, 1], "b", min_tokens=3) == (6, "abaaa")


def test_a_stop_string_far_back_is_not_found_again() -> None:
    assert first_cut(PIECES, [2] + [1] * 40, "b", min_tokens=1) is None
    assert first_cut(PIECES, [0] * 60 + [3] + [0] * 60 + [4, 5], "</answer>") == (123, "")
