"""MindRLHF's verifiers."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.recipes.mindrlhf.verifiers import accuracy_reward, format_reward, kk_reward, qwen_accuracy_reward


@pytest.mark.parametrize(
    ("completion", "solution", "expected"),
    [
        ("so it is 18", "18", 1.0), ("18.0", "18", 1.0), ("it costs $1,234.", "1234", 1.0), ("1,234", "1,234", 1.0),
        ("18 or 19", "18", 0.0), ("I do not know", "18", 0.0), ("-3", "-3", 1.0), ("7", "7 apples of 9", 1.0),
        ("9", "7 apples of 9", 0.0), ("", "18", 0.0), ("3", "no number", 0.0),
    ],
)  # fmt: skip
def test_the_last_number_is_the_first_of_the_solution(completion: str, solution: str, expected: float) -> None:
    assert accuracy_reward([completion], [solution]) == [expected]


@pytest.mark.parametrize(
    ("completion", "solution", "expected"),
    [
        (r"thus \boxed{42}", "42", 1.0), (r"\boxed{41} no, \boxed{42.0}", "42", 1.0), (r"\boxed{x} 42", "42", 0.0),
        ("42", "42", 1.0), (" 42\n", "42", 1.0), ("the answer is 42", "42", 0.0), (r"\boxed{1,000}", "1000", 1.0),
    ],
)  # fmt: skip
def test_the_boxed_number_or_the_whole_text(completion: str, solution: str, expected: float) -> None:
    assert qwen_accuracy_reward([completion], [solution]) == [expected]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1.0), ("<think>a\nb</think>\n <answer>c\n</answer>", 1.0),
        ("<think>a</think><answer>b</answer>\nand more", 0.0), ("<think>a</think>", 0.0),
        ("x<think>a</think><answer>b</answer>", 0.0), ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
    ],
)  # fmt: skip
def test_the_format_covers_the_whole_completion(completion: str, expected: float) -> None:
    """MindRLHF's own expression ends at any end of line, so text after the answer passes there."""
    assert format_reward([completion]) == [expected]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>t</think><answer>Ann is a knight, Bob is a knave</answer>", 3.0),
        ("<think>t</think><answer>Ann is a knave, Bob is a knave</answer>", -0.5),
        ("<think>t</think><answer>Ann is a knight</answer>", -1.0),
        ("<think>t</think><answer>nobody knows</answer>", -1.0),
        ("Ann is a knight, Bob is a knave", -3.0),
    ],
)
def test_knights_and_knaves(completion: str, expected: float) -> None:
    solution = "(1) Ann is a knight\n(2) Bob is a knave"
    assert kk_reward(["Who is what?"], [completion], [solution]) == [expected]


@pytest.mark.parametrize(
    ("completion", "solution", "expected"),
    [
        ("it is **18**.", "18", 1.0), (r"it costs \$18", "18", 1.0), (r"100\,000", "100000", 1.0), ("½", "1/2", 1.0),
        ("½", "2", 0.0), ("1/2", "2", 0.0), ("**19**", "18", 0.0),
    ],
)  # fmt: skip
def test_the_last_number_however_it_is_written(completion: str, solution: str, expected: float) -> None:
    assert accuracy_reward([completion], [solution]) == [expected]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"\fbox{42}", 1.0), (r"\boxed{\$42}", 1.0), (r"\boxed{**42**}", 1.0), (r"\boxed{42} or \boxed{41}", 0.0),
        (r"\boxed{42\,000}", 0.0), (r"\boxed{4/2}", 0.0),
    ],
)  # fmt: skip
def test_the_boxed_number_however_it_is_written(completion: str, expected: float) -> None:
    assert qwen_accuracy_reward([completion], ["42"]) == [expected]


def test_the_format_of_a_thought_that_the_prompt_opens() -> None:
    text = "t</think><answer>a</answer>"
    assert format_reward([text, text], ["Who? <think>\n", "Who?"]) == [1.0, 0.0]


def test_a_thought_that_the_prompt_opens_counts() -> None:
    text = "t</think><answer>Ann is a knight</answer>"
    assert kk_reward(["Who? <think>", "Who?"], [text, text], ["Ann is a knight"] * 2) == [3.0, -3.0]
