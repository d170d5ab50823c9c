"""Constraints that a program can check."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards.builtin.constraints import constraints, meets, read_constraints, words


@pytest.mark.parametrize(
    ("kind", "value", "good", "bad"),
    [
        ("include", ["sun", "Moon"], "The moon and the SUN.", "The moon."),
        ("exclude", "sorry", "Here it is.", "Sorry, no."),
        ("starts_with", ["Yes", "No"], "No, it is not.", "It is not."),
        ("ends_with", "Done.", "All of it. Done.", "Done. All of it."),
        ("min_words", 3, "one two three", "one two"),
        ("max_words", 2, "中文", "三个字"),
        ("min_sentences", 2, "One. Two!", "One, two"),
        ("max_sentences", 1, "只有一句。", "一句。两句。"),
        ("paragraphs", 2, "one\n\ntwo", "one\ntwo"),
        ("bullets", 2, "- a\n- b", "- a\n- b\n- c"),
        ("language", "zh", "这是中文", "This is English"),
        ("case", "upper", "ALL OF IT 1", "All of it"),
        ("format", "json", '```json\n{"a": 1}\n```', "{a: 1}"),
        ("format", "table", "|a|b|\n|---|---|\n|1|2|", "a | b"),
        ("format", "title", "# Title\ntext", "Title\ntext"),
    ],
)
def test_each_kind_tells_good_from_bad(kind: str, value: Any, good: str, bad: str):
    assert meets(good, [{"kind": kind, "value": value}]) == [True]
    assert meets(bad, [{"kind": kind, "value": value}]) == [False]


def test_words_count_chinese_characters_one_by_one():
    assert words("It's a two-part 测试, v2") == 6


def test_the_share_of_the_answer_after_the_thought_is_the_reward():
    asked = json.dumps([{"kind": "max_words", "value": 2}, {"kind": "include", "value": "yes"}])
    given = (["p"] * 3, ["<think>a long thought</think> yes", "no", "x"], [[1]] * 3, [asked, asked, None])
    assert constraints(*given) == [1.0, 0.5, None]
    assert constraints(*given, score="all") == [1.0, 0.0, None]


@pytest.mark.parametrize("value", ["{", "[]", [{"kind": "max_wrods", "value": 1}], 3, ["text"]])
def test_what_is_no_constraint_fails_its_sample_only(value: Any, group: Any):
    with pytest.raises(DataError):
        read_constraints(value)
    groups = [group(["a"], constraints=value), group(["a"], constraints=[{"kind": "max_words", "value": 1}])]
    with Rewards([RewardConfig(function="constraints", on_failure=-1.0)]) as rewards:
        table = rewards.score(groups)
    assert table.values[:, 0, 0].tolist() == [-1.0, 1.0]
    assert table.failures == {"constraints": 1}


def test_a_value_of_the_wrong_kind_is_said():
    with pytest.raises(DataError, match="wrong value"):
        meets("a", [{"kind": "max_words", "value": "few"}])
