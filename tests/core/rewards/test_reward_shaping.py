"""Length, overlong, repetition and language: rewards of form."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards.builtin.language import language, language_of
from mindrlhf_grpo.rewards.builtin.length import length, overlong
from mindrlhf_grpo.rewards.builtin.repetition import repetition

Score = Callable[..., Any]


def tokens(*counts: int) -> list[str]:
    return ["a" * count for count in counts]


def test_overlong_penalty_falls_over_the_buffer_and_is_capped(score: Score):
    settings = {"max_tokens": 100, "buffer": 20, "factor": 1.0}
    assert score(overlong, tokens(0, 79, 80, 81, 90, 99, 100, 101, 500), settings) == pytest.approx(
        [0, 0, 0, -0.05, -0.5, -0.95, -1, -1, -1], abs=1e-15
    )


def test_overlong_factor_is_the_largest_penalty(score: Score):
    assert score(overlong, tokens(15, 20, 40), {"max_tokens": 20, "buffer": 10, "factor": 0.5}) == [-0.25, -0.5, -0.5]


def test_overlong_counts_tokens_not_letters():
    assert overlong(["p"], ["a very long completion in one token"], [[7]], max_tokens=2, buffer=2) == [-0.5]


def test_an_overlong_buffer_above_the_maximum_is_refused(score: Score):
    with pytest.raises(ConfigError, match=r"buffer \(21\) is above max_tokens \(20\)"):
        score(overlong, ["a"], {"max_tokens": 20, "buffer": 21})


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [("target", [0, 0.5, 1, 0.5, 0, 0]), ("short", [1, 0.5, 0, 0, 0, 0]), ("long", [0, 0.5, 1, 1, 1, 1])],
)
def test_length_is_linear_between_its_bounds(score: Score, prefer: str, expected: list[float]):
    assert score(length, tokens(0, 5, 10, 15, 20, 30), {"tokens": 10, "prefer": prefer}) == expected


def test_repetition_is_the_share_of_ngrams_seen_before():
    ids = [[1, 2, 3, 1, 2, 3], [1, 1, 1, 1], [1, 2, 3, 4], [1, 2], []]
    texts = [""] * 5
    assert repetition(texts, texts, ids, ngram=3) == [-0.25, -0.5, 0, 0, 0]
    assert repetition(texts, texts, ids, ngram=1, penalty=2.0) == [-1, -1.5, 0, 0, 0]


def test_repetition_over_words_ignores_case(score: Score):
    assert score(repetition, ["Yes yes YES no", "yes"], {"ngram": 1, "unit": "word"}) == [-0.5, 0]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_repetition_is_zero_only_without_a_repeated_ngram(ids: list[int], ngram: int):
    grams = [tuple(ids[i : i + ngram]) for i in range(len(ids) - ngram + 1)]
    (value,) = repetition([""], [""], [ids], ngram=ngram)
    assert -1 < value <= 0
    assert (value == 0) == (len(set(grams)) == len(grams))


@pytest.mark.parametrize(
    ("want", "text", "share"),
    [
        ("en", "All English, 100%.", 1.0),
        ("zh", "这是中文。", 1.0),
        ("ja", "これは日本語です。カタカナ", 1.0),
        ("ko", "한국어 문장입니다", 1.0),
        ("zh", "中文ab", 0.5),
        ("en", "中文ab", 0.5),
        ("ko", "한국ab中文", 1 / 3),
        ("ja", "这是中文", 0.0),
        ("zh", "これは日本語です", 3 / 8),
        ("en", "déjà naïve", 1.0),
        ("en", "Привет", 0.0),
        ("zh", "<think>想</think><answer>答案</answer>", 1.0),
        ("zh", r"答案是 $\frac{1}{2}$", 1.0),
    ],
)
def test_language_is_the_share_of_its_letters(score: Score, want: str, text: str, share: float):
    assert score(language, [text], {"want": want}) == [pytest.approx(share, abs=1e-15)]


def test_without_letters_no_language_applies(score: Score):
    assert score(language, ["", "42", "$\\$ <think></think>", "!?"], {"want": "en"}) == [None] * 4


def test_the_language_of_the_prompt_can_be_wanted():
    prompts = ["你好吗", "How are you", "元気ですか", "잘 지내", "2 + 2 ="]
    completions = ["很好", "很好", "元気です", "good 좋", "four"]
    ids: list[list[int]] = [[]] * 5
    assert language(prompts, completions, ids, want="prompt") == [1.0, 0.0, 1.0, 0.2, None]


@pytest.mark.parametrize(
    ("text", "name"), [("hello", "en"), ("你好", "zh"), ("日本の", "ja"), ("안녕", "ko"), ("Привет", None), ("1", None)]
)
def test_the_language_of_a_text(text: str, name: str | None):
    assert language_of(text) == name


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_a_share_is_between_zero_and_one(text: str):
    for want in ("zh", "ja", "en", "ko"):
        (share,) = language([""], [text], [[]], want=want)
        assert share is None or 0 <= share <= 1


@pytest.mark.parametrize("text", ["<a" * 300_000, "\\" * 500_000, "\\a" * 300_000, "中a" * 300_000])
def test_very_long_completions_are_measured_at_once(score: Score, text: str):
    start = time.process_time()
    score(language, [text], {"want": "zh"})
    assert time.process_time() - start < 30  # about 0.1; hours if it were not linear
