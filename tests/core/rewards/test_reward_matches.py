"""Exact, numeric and regular-expression matches, and the answer tags that they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards.builtin.answers import tagged
from mindrlhf_grpo.rewards.builtin.exact_match import exact_match
from mindrlhf_grpo.rewards.builtin.numeric_match import Notation, first_number, last_number, numeric_match
from mindrlhf_grpo.rewards.builtin.regex import regex

Score = Callable[..., Any]


def test_exact_match_ignores_surrounding_space_only(score: Score):
    texts = ["Paris", " Paris\n", "paris", "Paris.", ""]
    assert score(exact_match, texts, {"answer": ["Paris"] * 5}) == [1, 1, 0, 0, 0]


def test_exact_match_may_ignore_case_and_look_in_a_tag(score: Score):
    texts = ["<answer>PARIS</answer>", "Paris", "<answer>no</answer> <answer> paris </answer>"]
    settings = {"answer": ["Paris"] * 3, "tag": "answer", "ignore_case": True}
    assert score(exact_match, texts, settings) == [1, 0, 1]


def test_references_are_answer_or_solution_or_the_named_column(score: Score):
    assert score(exact_match, ["a"], {"answer": ["a"], "solution": ["b"]}) == [1]
    assert score(exact_match, ["b"], {"solution": ["b"]}) == [1]
    assert score(exact_match, ["c"], {"answer": ["a"], "gold": ["c"], "column": "gold"}) == [1]


def test_a_missing_reference_column_lists_those_there_are(score: Score):
    with pytest.raises(DataError, match=r"no column 'gold' with reference answers .* columns there are: answer, level"):
        score(exact_match, ["a"], {"answer": ["a"], "level": [1], "column": "gold"})


def test_a_row_without_reference_is_not_applicable(score: Score):
    assert score(exact_match, ["a", "b"], {"answer": [None, "b"]}) == [None, 1]
    assert score(numeric_match, ["1", "2"], {"answer": [None, 2]}) == [None, 1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", "2"),
        ("The answer is 2.0.", "2.0"),
        ("23+48=71", "71"),
        ("It costs $1,234,567.89!", "1234567.89"),
        (r"\boxed{1{,}234}", "1234"),
        ("12,345,67", "67"),
        ("1234,567", "567"),
        ("-7", "-7"),
        ("= -7", "-7"),
        ("=-7", "-7"),
        ("**-7**", "-7"),
        ("minus sign −7", "-7"),
        ("答案是-7", "-7"),
        ("10-7", "7"),
        ("x-7", "7"),
        ("(3)-7", "7"),
        ("5 - 7 = -2", "-2"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("1.5e3", "1500"),
        ("6.02E-2 mol", "0.0602"),
        ("2e", "2"),
        ("e5", "5"),
        ("3 apples, 4 pears", "4"),
        ("50%", "50"),
        ("007", "7"),
        ("1/2", "0.5"),
        ("-1/2", "-0.5"),
        ("1 1/2 cups", "1.5"),
        ("½", "0.5"),
        ("2½ cups", "2.5"),
        (r"\frac{3}{4}", "0.75"),
        (r"-\dfrac12", "-0.5"),
        ("48/2 = 24", "24"),
        ("on 1/2/2024", "2024"),
        ("1/0", "0"),
        ("3/4.5", "4.5"),
        (r"100\,000", "100000"),
        ("1\u202f000\u202f000", "1000000"),
        ("1 000", "000"),
    ],
)
def test_the_last_number_is_found(text: str, number: str):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "-", ".", "e"])
def test_a_text_without_number_has_none(text: str):
    assert last_number(text) is None


@pytest.mark.parametrize(
    ("completion", "reference", "expected"),
    [
        ("2", "2.0", 1),
        ("2.0", 2, 1),
        ("so 1,000 in all", "1000", 1),
        ("0.1", 0.1, 1),
        ("-3", "3", 0),
        ("2 or 3", "2", 0),
        ("72", "She sold 48 + 24 = 72 clips\n#### 72", 1),
        ("none", "2", 0),
        ("1e999", "2", 0),
        ("0.30000000000000004", "0.3", 0),
    ],
)
def test_numbers_are_compared_as_numbers(score: Score, completion: str, reference: object, expected: int):
    assert score(numeric_match, [completion], {"answer": [reference]}) == [expected]


@pytest.mark.parametrize(
    ("text", "notation", "number"),
    [
        ("1.234,5", "1.234,5", "1234.5"),
        ("1.234.567", "1.234,5", "1234567"),
        ("0,5", "1.234,5", "0.5"),
        ("1 000", "1 234.5", "1000"),
        ("1 000.5", "1 234.5", "1000.5"),
        ("1 234 567,89", "1 234,5", "1234567.89"),
        ("von 3 auf 1.000,00 Euro", "1.234,5", "1000"),
        ("1,5", "1,234.5", "5"),
    ],
)
def test_numbers_in_other_notations(text: str, notation: Notation, number: str):
    assert last_number(text, notation) == Decimal(number)


def test_numeric_match_reads_text_references_in_the_notation_and_numbers_as_they_are(score: Score):
    settings = {"answer": ["1.234,5", 1234.5, 1.5], "notation": "1.234,5"}
    assert score(numeric_match, ["1.234,5", "1234,5", "15"], settings) == [1, 1, 0]


def test_numeric_match_looks_after_the_thought(score: Score):
    assert score(numeric_match, ["<think>7</think>", "8</think>7"], {"answer": [7, 7]}) == [0, 1]


def test_numeric_match_with_a_tolerance(score: Score):
    assert score(numeric_match, ["3.14", "3.1"], {"answer": ["3.1416"] * 2, "tolerance": 0.01}) == [1, 0]


def test_numeric_match_in_a_tag_ignores_what_stands_after(score: Score):
    texts = ["<answer>5</answer> (of 7)", "5"]
    assert score(numeric_match, texts, {"answer": [5, 5], "tag": "answer"}) == [1, 0]


def test_a_reference_without_number_fails_that_sample_only(score: Score):
    first, second = score(numeric_match, ["1", "2"], {"answer": ["one", "2"]})
    assert str(first) == "the reference answer 'one' holds no number"
    assert second == 1


@given(st.decimals(-(10**12), 10**12, places=3), st.sampled_from(["{}", "It is {}.", "= {}", "9 then {} m", "是{}"]))
def test_a_number_is_found_again_however_it_is_written(number: Decimal, frame: str):
    assert last_number(frame.format(number)) == number
    assert last_number(frame.format(f"{number:,}")) == number


def test_the_first_number():
    assert first_number("7 of 9") == 7
    assert first_number("1/2 of 9") == Decimal("0.5")
    assert first_number("none") is None


@given(st.text(alphabet="0123456789,.-+eE{}<>$ a−是/½\n"))
def test_any_text_can_be_searched_for_a_number(text: str):
    assert last_number(text) is None or isinstance(last_number(text), Decimal)


def test_regex_anywhere_at_the_start_and_as_a_whole(score: Score):
    texts = ["ab", "xab", "abx", "x"]
    for where, expected in (("anywhere", [1, 1, 1, 0]), ("start", [1, 0, 1, 0]), ("whole", [1, 0, 0, 0])):
        assert score(regex, texts, {"pattern": "a[b]", "where": where}) == expected


def test_a_catastrophic_pattern_is_stopped_by_its_timeout(group: Callable[..., Any]):
    config = RewardConfig(function="regex", arguments={"pattern": "(a+)+b"}, timeout=0.5, on_failure=-1)
    with Rewards([config]) as rewards:
        table = rewards.score([group(["ab", "a" * 60, "b"])])
    assert table.values[:, 0, 0].tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<t>a</t>", "a"),
        ("<t>a</t><t>b</t>", "b"),
        ("<t>a<t> b </t>", "b"),
        ("<t></t>", ""),
        ("<t>a", None),
        ("a</t>", None),
        ("</t><t>", None),
        ("<t>a</t></t>", "a</t>"),
    ],
)
def test_the_last_tagged_text(text: str, inside: str | None):
    assert tagged(text, "t") == inside


@pytest.mark.parametrize(
    "hostile", ["1" * 1_000_000, "1," * 500_000, "-" * 1_000_000, "<answer>" * 100_000, "1e" * 500_000]
)
def test_very_long_completions_are_matched_at_once(score: Score, hostile: str):
    start = time.process_time()
    assert score(numeric_match, [hostile, hostile], {"answer": [2, 2], "tag": None}) == [0, 0]
    assert score(exact_match, [hostile], {"answer": ["2"], "tag": "answer"}) == [0]
    assert time.process_time() - start < 30  # about 0.6; hours if it were not linear
