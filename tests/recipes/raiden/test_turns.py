"""Turns of a conversation as messages."""

from __future__ import annotations

from typing import Any

import pytest

from mindrlhf_grpo.recipes.raiden.data import alternating
from mindrlhf_grpo.recipes.raiden.rewards import content_of


def test_neighbours_of_one_role_become_one_message() -> None:
    turns = [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    assert alternating(turns) == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert alternating([]) == []


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("a", "a"),
        ({"role": "assistant", "content": "a"}, "a"),
        ([{"content": "b"}, {"content": "a"}], "a"),
        ([], ""),
        ({"content": None}, ""),
    ],
)
def test_the_text_of_a_completion(completion: Any, text: str) -> None:
    assert content_of(completion) == text
