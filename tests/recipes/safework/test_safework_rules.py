"""Rule rewards, value by value."""

from __future__ import annotations

import numpy as np
import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.recipes.safework.later_stages import efficiency, search_verification
from mindrlhf_grpo.recipes.safework.rewards import exchange
from mindrlhf_grpo.recipes.safework.rules import (
    combined_rule,
    constraint_rule,
    format_reward,
    language_rule,
    rule_reward,
)
from mindrlhf_grpo.rewards.builtin.answers import last_box
from mindrlhf_grpo.types import Prompt


@pytest.mark.row("safework", "Format/rule", backend="none")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think>b", 1.0),
        ("no think", 0.0),
        ("<think></think>b", 0.0),
        ("<think> </think>b", 1.0),
        ("<think>a</think>", 0.0),
        ("<think>a</think> \n\t", 0.0),
        ("before <think>a</think>b", 1.0),
        ("<think>a</think><think>c</think>b", 1.0),
        ("<think>a</think><think>c</think>", 1.0),
        ("<think></think>x</think>b", 1.0),
        ("a</think>b", 0.0),
        ("<think>a b", 0.0),
        ("<think>line\nbreak</think>\nb", 1.0),
        ("", 0.0),
    ],
)
def test_format(text: str, value: float):
    assert format_reward(text) == value


@pytest.mark.row("safework", "Format/rule", backend="none")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"<think>a</think>\boxed{9}", 1.0),
        (r"<think>a</think>first \boxed{8}, no, \boxed{9}", 1.0),
        (r"<think>a</think>\boxed{9} or \boxed{8}", 0.0),
        (r"<think>\boxed{9}</think> nothing", 0.0),
        (r"<think>a</think>\boxed{ 18/2 }", 1.0),
        (r"\boxed{9.0}", 1.0),
        (r"<think>a</think>\boxed{9", 0.0),
        (r"<think>a</think>\fbox{9}", 1.0),
        (r"<think>a</think>\boxed{\$9}", 1.0),
        (r"<think>a</think>**\boxed{9.00}**", 1.0),
        (r"<think>a</think>\boxed{9} \fbox{8}", 0.0),
        ("<think>a</think>9", 0.0),
    ],
)
def test_the_last_box_after_the_last_thought_is_the_answer(text: str, value: float):
    assert rule_reward(text, "9") == value


def test_a_box_may_hold_braces_and_words():
    assert last_box(r"\boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert rule_reward(r"\boxed{\frac{1}{2}}", "0.5") == 1.0
    assert rule_reward(r"\boxed{the answer}", "the answer") == 1.0
    assert rule_reward(r"\boxed{an answer}", "the answer") == 0.0


@pytest.mark.row("safework", "Format/rule", backend="none")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"<think>a</think>\boxed{9}", 1.0),
        (r"\boxed{9}<think>a</think>", 0.9),
        (r"\boxed{9}", 0.9),
        (r"<think>a</think>\boxed{8}", 0.1),
        (r"<think>a \boxed{9}</think>", 0.9),
        (r"<think>a</think>9", 0.0),
        (r"<think>a</think>\fbox{9}", 1.0),
        (r"\fbox{9}<think>a</think>", 0.9),
    ],
)
def test_accuracy_counts_nine_tenths_and_order_one(text: str, value: float):
    assert combined_rule(text, 9) == pytest.approx(value, abs=1e-12)


def test_question_thought_and_answer_are_in_one_language():
    solution = "<think>t</think>a"
    assert language_rule("一加一等于多少？", "这是一道题", "等于二", solution) == 1.0
    assert language_rule("What is it?", "这是一道题", "two", solution) == 0.0
    assert language_rule("What is 中文?", "a thought", "two", solution) == 1.0  # two units each: not more than half
    assert language_rule("What is it?", "a thought", "two", "no format") == 0.0


def test_constraints_are_the_reference():
    asked = '[{"kind": "max_words", "value": 2}, {"kind": "include", "value": "sun"}]'
    assert [constraint_rule(text, asked) for text in ("the sun", "moon", "the big red moon")] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("reference", [None, "", "  "])
def test_a_rule_without_a_reference_is_an_error(reference: str | None):
    with pytest.raises(DataError, match="needs a reference"):
        rule_reward(r"\boxed{9}", reference)


def test_only_right_answers_gain_by_being_short():
    texts = [r"\boxed{9}", r"<think>a</think>\boxed{9}", r"\boxed{8}", r"\boxed{9}"]
    found = efficiency(texts, [[0] * n for n in (2, 5, 1, 30)], ["9"] * 4, max_tokens=10)
    assert found == pytest.approx([0.8, 0.5, 0.0, 0.0], abs=1e-12)


def test_a_search_and_a_confidence_that_fits_are_rewarded():
    think = "<think><search>q</search></think>"
    texts = [rf"{think}\boxed{{9}}<sure>", rf"{think}\boxed{{8}}<unsure>", rf"{think}\boxed{{9}}<unsure>",
             rf"{think}\boxed{{8}}<sure>", r"<think>a</think>\boxed{9}<sure>"]  # fmt: skip
    assert search_verification(texts, ["9"] * 5) == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_a_thought_that_the_prompt_opens_earns_the_format_and_the_order():
    """Finding F4: templates such as DeepSeek-R1-Distill's open the thought in the prompt."""
    prompt = Prompt(uid=0, ids=np.arange(3), text="<|User|>What is 4 + 5?<|Assistant|><think>\n", columns={})
    row = exchange(prompt, r"four and five</think>\boxed{9}")
    assert (row["thought"], row["response"]) == ("four and five", r"\boxed{9}")
    assert (format_reward(row["completion"]), combined_rule(row["completion"], "9")) == (1.0, 1.0)
    again = exchange(prompt, r"2<think>2</think>\boxed{9}")
    assert format_reward(again["completion"]) == 1.0
    assert format_reward(exchange(prompt, r"no end \boxed{9}")["completion"]) == 0.0
