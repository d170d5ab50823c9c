"""Thought and answer tags: in order, once each, filled, and nothing around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.rewards.builtin.format import tag_format

Score = Callable[..., Any]
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("  <think>\na\n</think>\n\n<answer> b </answer>\n", 1),
        ("<think>a < b > c</think><answer><b>4</b></answer>", 1),
        ("<think>a</think>", 0),
        ("<think>a</think>b", 0),
        ("<answer>b</answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a</think><answer></answer>", 0),
        ("<think> </think><answer>b</answer>", 0),
        ("hm <think>a</think><answer>b</answer>", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer> done", 0),
        ("<think>a<think>b</think></think><answer>c</answer>", 0),
        ("<think>a</think><think>b</think><answer>c</answer>", 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<think>a<answer>b</answer></think>", 0),
        ("<think>a<answer>b</think>c</answer>", 0),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", 0),
        ("<think>a</think><answer>b", 0),
        ("a</think><answer>b</answer>", 0),
        ("", 0),
    ],
)
def test_think_and_answer(score: Score, text: str, expected: int):
    assert score(tag_format, [text]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<think>a</think>b", 1), ("<think>a</think>", 0), ("<think>a</think> \n", 0), ("b", 0), ("</think>b<think>a", 0)],
)
def test_a_thought_and_then_free_text(score: Score, text: str, expected: int):
    assert score(tag_format, [text], {"answer": None}) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a</think><answer>b</answer>", 1), ("<think>a</think><answer>b</answer>", 0), ("</think><answer>b</answer>", 0)],
)
def test_a_thought_that_the_prompt_opened(score: Score, text: str, expected: int):
    assert score(tag_format, [text], {"opened": True}) == [expected]


def test_a_thought_that_the_prompt_opens_is_seen():
    texts = ["a</think><answer>b</answer>", "<think>a</think><answer>b</answer>"]
    for prompt, expected in (("Why?<think>\n", [1, 0]), ("Why?", [0, 1]), ("<think>\n\n</think>\n\n", [0, 1])):
        assert tag_format([prompt] * 2, texts, [[], []]) == expected
    assert tag_format(["Why?<think>"], texts[:1], [[]], opened=False) == [0]
    assert tag_format(["Why?<why>"], ["a</why>b"], [[]], think="why", answer=None) == [1]


def test_other_names_for_the_tags(score: Score):
    assert score(tag_format, ["<why>a</why><say>b</say>"], {"think": "why", "answer": "say"}) == [1]


@given(st.lists(st.sampled_from([*TAGS, "a", " ", "\n"]), max_size=9))
def test_the_format_is_exactly_four_tags_around_text(pieces: list[str]):
    text = "".join(pieces)
    shape = "".join(text.split())
    for tag, mark in zip(TAGS, "1234", strict=True):
        shape = shape.replace(tag, mark)
    expected = [piece for piece in shape if piece != "a"] == list("1234") and "1a" in shape and "3a" in shape
    expected = expected and shape[0] == "1" and shape[-1] == "4" and "23" in shape
    assert tag_format([""], [text], [[]]) == [float(expected)]


def test_very_long_completions_are_checked_at_once(score: Score):
    start = time.process_time()
    assert score(tag_format, ["<think>" * 200_000, "<" * 1_000_000, "a</think>" * 200_000]) == [0, 0, 0]
    assert time.process_time() - start < 30  # about 0.2; hours if it were not linear
