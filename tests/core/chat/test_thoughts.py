"""Thought and answer are separated in every form that models write."""

from __future__ import annotations

import time

import pytest

from mindrlhf_grpo.chat.thoughts import final_answer, opened_thought, with_opened_thought, without_thoughts


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>hm</think>I am here.", "I am here."),
        ("a <thinking>b</thinking> c <thought>d</thought> e", "a   c   e"),
        ("<THINK>x\ny</THINK>\n好", "好"),
        ("before <think>never closed", "before"),
        ("opened by the template</think> said", "said"),
        ("<reasoning>kept</reasoning><answer>kept</answer>", "<reasoning>kept</reasoning><answer>kept</answer>"),
        ("nothing to drop", "nothing to drop"),
        ("<think></think>", ""),
    ],
)
def test_thoughts_are_dropped_and_other_tags_stay(text: str, left: str) -> None:
    assert without_thoughts(text) == left


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>b</answer>", "b"),
        ("<answer>first</answer> no, <answer>second</answer>", "second"),
        ("<answer>not closed", "not closed"),
        ("<think>b</think> c", "c"),
        ("<think>b</think>", ""),
        ("<think>b", ""),
        ("<think><answer>b</answer></think> c", "c"),
        ("I think.\nAnswer: seven\nBye", "seven"),
        ("想一想。\n答案：小明", "小明"),
        ("答えは：東京です", "東京です"),
        ("정답은: 서울", "서울"),
        ("no mark at all", "no mark at all"),
        ("", ""),
    ],
)
def test_the_answer_comes_from_the_tag_then_after_the_thought_then_after_a_mark(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_hostile_text_takes_linear_time() -> None:
    began = time.process_time()
    final_answer("<think>" * 50_000 + "<answer>" * 50_000)
    assert time.process_time() - began < 30  # about 0.01; minutes if it were not linear


@pytest.mark.parametrize("prompt", ["Why?<think>", "Why?\n<think>\n", "<|assistant|><thinking>\n\n"])
def test_a_thought_that_the_prompt_opened_is_no_answer(prompt: str) -> None:
    assert without_thoughts("a", prompt) == final_answer("a", prompt) == ""
    assert opened_thought(prompt) != ""


def test_a_thought_that_the_prompt_opened_ends_where_the_completion_closes_it() -> None:
    assert with_opened_thought("<think>\n", "a</think>b") == "<think>a</think>b"
    assert with_opened_thought("<think>\n", "<think>a</think>b") == "<think>a</think>b"
    assert with_opened_thought("<think>\n\n</think>\n\n", "b") == "b"
    assert final_answer("a</think>b", "<think>\n") == final_answer("b", "Why?") == "b"
