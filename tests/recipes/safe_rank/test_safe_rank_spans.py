"""Tokens of ranks: the parser's items and the tokens that learn from them agree."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.recipes.safe_rank.spans import ranks

pytestmark = [pytest.mark.row("safe_rank", "Spans", backend="none")]
N = -1


def spans(pieces: list[str], items: int, *, ended: bool = True, mode: str = "aligned") -> tuple[list[int], list[float]]:
    """Return the ranks of a completion in these pieces, the end token last."""
    ends = [len("".join(pieces[: number + 1])) for number in range(len(pieces))]
    return ranks("".join(pieces), [*ends, *ends[-1:] * ended], ended, items, segment_mode=mode)


@pytest.mark.parametrize(
    ("pieces", "items", "expected"),
    [
        (["A", " (1990", ")", "\n", "B", " (1991", ")"], 2, [0, 0, 0, 0, 1, 1, 1]),
        (["A (1990", ")\n1", ". B (1991)"], 2, [0, 0, 1]),  # a token with the end of one item and the start of the next
        (["A (1990)", "\n\n", "B (1991)"], 2, [0, 0, 1]),
        (["A (1990)", "\n", "\n", "B (1991)"], 2, [0, 0, 0, 1]),
        (["A (1990)\r", "\n", "B (1991)\r\n"], 2, [0, 0, 1]),
        (["Here", " you go:\n", "\n", "A (1990)\n", "B (1991)"], 2, [N, N, N, 0, 1]),
        (
            ["<think>", "Saw?\n</think>\n", "<solution>\n", "A (1990)\n", "</solution>", "\nB (1991)"],
            2,
            [N, N, N, 0, N, N],
        ),
        (["A (1990)\n", "and\n", "B (1991)\n", "Enjoy!", "\n"], 2, [0, N, 1, N, N]),
        (["A (1990)\n", "B (1991)", "\n", "C (1992)", "\n", "D (1993)"], 2, [0, 1, 1, 2, 2, 2]),
    ],
)
def test_tokens_follow_the_parsed_items(pieces: list[str], items: int, expected: list[int]) -> None:
    assert spans(pieces, items)[0] == [*expected, items + 1]  # the end token is apart
    assert spans(pieces, items, ended=False)[0] == expected


def test_blank_lines_shift_ranks_only_where_newlines_are_counted() -> None:
    pieces = ["Sure:\n", "A (1990)\n", "\n", "B (1991)"]
    assert spans(pieces, 2)[0] == [N, 0, 0, 1, 3]
    assert spans(pieces, 2, mode="newline")[0] == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("last", ["", "\n"])
@pytest.mark.parametrize("mode", ["aligned", "newline"])
def test_both_modes_agree_on_a_correct_list_and_a_last_newline_makes_no_item(mode: str, last: str) -> None:
    pieces = [piece for number in range(20) for piece in (f"{number + 1}. Film", f" ({1990 + number}", ")\n")]
    own, extra = spans([*pieces[:-1], ")" + last], 20, mode=mode)
    assert own == [*[rank for rank in range(20) for _ in range(3)], 21]
    assert extra == [*[0.0] * 60, 0.1]


@pytest.mark.parametrize("mode", ["aligned", "newline"])
def test_length_shaping(mode: str) -> None:
    films = ["A (1990)\n", "B (1991)\n", "C (1992)\n", "D (1993)"]
    assert spans(films, 4, mode=mode)[1] == [0.0, 0.0, 0.0, 0.0, 0.1]
    assert spans(films, 5, mode=mode)[1] == [0.0, 0.0, 0.0, 0.0, -0.1]
    assert spans(films, 3, mode=mode)[1] == [0.0, 0.0, 0.0, -0.1, 0.0]
    assert spans(films, 5, mode=mode, ended=False)[1] == [0.0] * 4
    assert spans(films, 4, mode=mode, ended=False)[1] == [0.0] * 4


def test_the_constants_of_length_shaping_are_settings() -> None:
    text, ends = "A (1990)\nB (1991)", [9, 17, 17]
    assert ranks(text, ends, True, 1, extra_token_penalty=0.3)[1] == [0.0, -0.3, 0.0]
    assert ranks(text, ends, True, 2, end_of_list_reward=0.4)[1] == [0.0, 0.0, 0.4]
    assert ranks(text, ends, True, 3, early_stop_penalty=0.5)[1] == [0.0, 0.0, -0.5]
    assert ranks(text, ends, True, 3, apply_extra_length_shaping=False)[1] == [0.0, 0.0, 0.0]


def test_an_empty_completion_has_only_its_end() -> None:
    assert ranks("", [0], True, 2) == ([3], [-0.1])
    assert ranks("", [], False, 2) == ([], [])
