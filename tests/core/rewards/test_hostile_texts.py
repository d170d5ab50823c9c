"""No completion makes a reward, rule or reader slow: thousands of repetitions of unclosed tags and the like, each at once.

Every expression of the rewards and of the recipes' rules is run on every text. What takes longer than usual is compared with a
quarter of the text: four times the time is a busy machine, sixteen times an expression whose time grows with the square. One
that took 1.4 s on 20,000 repetitions is found on 3,000 too (0.03 s); ``make test-slow`` has 20,000.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mindrlhf_grpo.chat.thoughts import final_answer, without_thoughts
from mindrlhf_grpo.recipes.mindrlhf import verifiers
from mindrlhf_grpo.recipes.raiden import keywords, replies
from mindrlhf_grpo.recipes.raiden import rewards as raiden
from mindrlhf_grpo.recipes.safe_rank.parsing import parse
from mindrlhf_grpo.recipes.safe_rank.titles import normalise
from mindrlhf_grpo.recipes.safework import later_stages, rules
from mindrlhf_grpo.rewards.builtin import answers, constraints, language, numeric_match, unit_tests
from mindrlhf_grpo.rewards.builtin.format import tag_format
from mindrlhf_grpo.rewards.builtin.math_accuracy import math_accuracy, prepare
from mindrlhf_grpo.rewards.judges import answers as judge_answers
from mindrlhf_grpo.rewards.judges import chat_text

REPEATED = [3_000, pytest.param(20_000, marks=pytest.mark.slow)]
SECONDS = 0.02  # of processor time, which is looked at no further
GROWTH = 8.0  # between 4 and 16, for a text four times as long
TAGS = ["<think>", "<think>a ", "</think>", "<answer>", "a<answer>b", "<solution>", "<search>", "```python\n", "`", "```",
        "<|im_start|>user ", "<|vision_start|><|image_pad|>", "<|", "<img><IMG_CONTEXT>"]  # fmt: skip
LATEX = [r"\boxed{", r"\fbox{7} and ", r"\boxed ", r"\text{", r"\text{and ", "$", "$7", "$7 ", r"\(", r"\[", r"\,", r"1\,",
         r"\frac{1", r"\frac{1}{2} and ", "√(", "**", "**a", "* ", "*a", "_", "__a", "**2", "^", "~", "1~"]  # fmt: skip
NUMBERS = ["1", "1 ", "1,", "1 111", "1 111 ", "1.", "1/", "1/2 ", "½", "1e", "-", "- ", "7 or ", "7, ", "x = ", "= ",
           "1\u00a0", "·", "!", "(2001", "( "]  # fmt: skip
WORDS = ["(", ")", "{", "}", "[", " ", "\n", " \n", "\t", "|", "| |\n", "|a|\n", "|-", "answer ", "answer is ",
         "The answer is 7", "The answer is not ", "Answer: ", "#### ", "answer: 7 wait, ", "答案", "答案是", "a ", "A ",
         "(A) ", "option A ", "knight ", "Ann is a ", "first ", "step ", '{"keywords": ', "'a", "def f", "not but "]  # fmt: skip


def hostile_texts(repeated: int) -> list[str]:
    """All texts with this many repetitions, in an order that does not depend on it."""
    blanks, lines = " " * repeated, "\n" * repeated
    runs = [f"answer{blanks}x", r"\boxed{" + "1" * repeated, "boxed{" + "1," * repeated + "}", f"x{blanks}x", f"x{lines}x",
            f"```json{blanks}x", "|" + "a|" * repeated + "\n|" + "- " * repeated, "1" + "~" * repeated + "x",
            r"\boxed{" + "and " * repeated + "}", r"\boxed{\text{" + "or " * repeated + "}}"]  # fmt: skip
    return [text * repeated for text in (*TAGS, *LATEX, *NUMBERS, *WORDS)] + runs


READERS: Mapping[str, Callable[[str], Any]] = {
    "math_accuracy": lambda text: math_accuracy([""], [text], [[]], answer=["7"]),
    "math_accuracy of a list": lambda text: math_accuracy([""], [text], [[]], answer=["3, 4"]),
    "math_accuracy of a choice": lambda text: math_accuracy([""], [text], [[]], answer=["B"]),
    "numeric_match": numeric_match.last_number,
    "numeric_match with commas": lambda text: numeric_match.last_number(text, "1.234,5"),
    "numeric_match with spaces": lambda text: numeric_match.last_number(text, "1 234,5"),
    "words": constraints.words,
    "sentences": constraints.sentences,
    "paragraphs": constraints.paragraphs,
    "bullets": constraints.BULLET.findall,
    "json": constraints.is_json,
    "table": constraints.is_table,
    "title": constraints.is_titled,
    "program": lambda text: unit_tests.program("prompt", text, "f", None),
    "language": language.letters_by_language,
    "box": answers.last_box,
    "tag": lambda text: answers.tagged(text, "answer"),
    "format": lambda text: tag_format(["<think>"], [text], [[]]),
    "final answer": lambda text: final_answer(text, "<think>"),
    "without thoughts": without_thoughts,
    "turns": chat_text.turns,
    "images": lambda text: chat_text.replace_images(text, ""),
    "special": chat_text.without_special,
    "thought and answer": chat_text.thought_and_answer,
    "number of a judge": judge_answers.number_reader([0, 1]),
    "verdict": judge_answers.verdict_reader({"yes": 1}),
    "safework format": rules.format_reward,
    "safework rule": lambda text: rules.rule_reward(text, "7"),
    "safework gsm8k": lambda text: rules.combined_rule(text, "7"),
    "safework language": rules.is_chinese,
    "safework search": lambda text: later_stages.search_verification([text], ["7"]),
    "raiden format": lambda text: raiden.format([text], ["en"]),
    "raiden looks": lambda text: raiden.format([text], ["en"], profile="repo"),
    "raiden looks in Chinese": lambda text: raiden.format([text], ["zh"], profile="repo"),
    "raiden thinking": lambda text: raiden.thinking([text]),
    "raiden accuracy": lambda text: raiden.accuracy([text], ["a"], [["b"]], [raiden.SINGLE], ["en"]),
    "raiden keywords": keywords.read_keywords,
    "raiden line": lambda text: replies.usable_line(text, "zh", fits=lambda line: False),
    "mindrlhf accuracy": lambda text: verifiers.accuracy_reward([text], ["7"]),
    "mindrlhf box": lambda text: verifiers.qwen_accuracy_reward([text], ["7"]),
    "mindrlhf format": lambda text: verifiers.format_reward([text]),
    "mindrlhf roles": lambda text: verifiers.kk_reward(
        [""], [f"<think>a</think><answer>{text}</answer>"], ["Ann is a knight"]
    ),
    "mindrlhf solution": lambda text: verifiers.kk_reward([""], ["<think>a</think><answer>b</answer>"], [text]),
    "safe_rank list": parse,
    "safe_rank title": normalise,
}


@pytest.mark.parametrize("repeated", REPEATED)
@pytest.mark.parametrize("name", READERS)
def test_no_text_makes_a_reader_slow(name: str, repeated: int):
    prepare()
    for text, quarter in zip(hostile_texts(repeated), hostile_texts(repeated // 4), strict=True):
        seconds = processor_seconds(READERS[name], text)
        if seconds > SECONDS:
            seconds, shorter = (least_of_three(READERS[name], each) for each in (text, quarter))
            assert seconds < GROWTH * shorter, f"{seconds:.1f} s on {text[:20]!r}, {shorter:.1f} s on a quarter of it"


def least_of_three(reader: Callable[[str], Any], text: str) -> float:
    return min(processor_seconds(reader, text) for _ in range(3))


def processor_seconds(reader: Callable[[str], Any], text: str) -> float:
    start = time.process_time()
    reader(text)
    return time.process_time() - start
