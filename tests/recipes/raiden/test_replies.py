"""The usable part of a chat model's reply, and replies without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mindrlhf_grpo.recipes.raiden.replies import usable_line, yes_or_no


def asks(line: str) -> bool:
    return line.endswith(("?", "？"))


def self_told(line: str) -> bool:
    return line.startswith(("I ", "我"))


@pytest.mark.parametrize(
    ("reply", "language", "fits", "single", "line"),
    [
        ("<think>x</think>“你好吗？”", "zh", asks, True, "你好吗？"),
        ("题目：\n你好吗？\n解释", "zh", asks, True, "你好吗？"),
        ("Okay, let me write it.\n你好吗？", "zh", asks, True, "你好吗？"),
        ("Here is my line\n我很好。\n再见。", "zh", self_told, False, "我很好。"),
        ("我很好。\n再见。", "zh", self_told, False, "我很好。 再见。"),
        ("Sure!\nI am fine.", "en", self_told, False, "I am fine."),
        ("Sure, no line fits", "en", asks, False, None),
        ("<think>only", "en", asks, False, None),
        (' "" \n **', "en", asks, False, None),
    ],
)
def test_one_line_of_a_reply(
    reply: str, language: str, fits: Callable[[str], bool], single: bool, line: str | None
) -> None:
    assert usable_line(reply, language, fits=fits, single=single) == line


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("Yes.", True), ("<think>no</think> yes", True), ("no", False), ("maybe", None), ("yes no", None), ("", None)],
)
def test_a_question_of_yes_or_no(reply: str, verdict: bool | None) -> None:
    found = yes_or_no(reply, yes=lambda said: "yes" in said.lower(), no=lambda said: "no" in said.split())
    assert found is verdict
