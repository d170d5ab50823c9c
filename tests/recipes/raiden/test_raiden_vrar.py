"""The verifiable reward, in numbers, in four languages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.raiden.rewards import MULTI, SINGLE, accuracy, check_weights, format, thinking, weighted

LANGUAGES = ("zh", "ja", "en", "ko")
WORD = {"zh": "桂花茶", "ja": "よもぎ団子", "en": "seafoam", "ko": "메밀묵"}
OTHER = {"zh": "铜铃", "ja": "流れ星", "en": "buttons", "ko": "부엉이"}
SAYS = {"zh": "我最爱{}。", "ja": "私は{}が好きです。", "en": "I like {}!", "ko": "저는 {}을 좋아해요."}
MARKED = {"zh": "答案：{}", "ja": "答えは：{}", "en": "Answer: {}", "ko": "정답: {}"}


def grade(
    said: Any, language: str, *, words: list[Any], method: str = SINGLE, answer: str | None = None, **options: Any
) -> float | None:
    expected = SAYS[language].format(WORD[language]) if answer is None else answer
    return accuracy([said], [expected], [words], [method], [language], options.pop("terms", None), **options)[0]


@pytest.mark.row("raiden", "VRAR", backend="none")
@pytest.mark.parametrize("language", LANGUAGES)
def test_one_keyword_is_in_the_final_answer_or_not(language: str) -> None:
    word, says = WORD[language], SAYS[language]
    good, bad = says.format(word), says.format(OTHER[language])
    for said, expected in [
        (good, 1.0), (bad, 0.0), ("", 0.0),
        (f"<think>{bad}</think><answer>{good}</answer>", 1.0),
        (f"<think>{bad}</think>{good}", 1.0),
        (f"<think>{good}</think><answer>{bad}</answer>", 0.0),
        (f"<think>{good}", 0.0),
        (f"{word} ...\n{MARKED[language].format(OTHER[language])}", 0.0),
        (MARKED[language].format(word), 1.0),
    ]:  # fmt: skip
        assert grade(said, language, words=[word]) == expected, said


@pytest.mark.row("raiden", "VRAR", backend="none")
@pytest.mark.parametrize("language", LANGUAGES)
def test_of_several_keywords_every_slot_counts(language: str) -> None:
    one, other = WORD[language], OTHER[language]
    half, both = SAYS[language].format(one), f"{SAYS[language].format(one)} {SAYS[language].format(other)}"
    assert grade(both, language, words=[one, other], method=MULTI) == 1.0
    assert grade(half, language, words=[one, other], method=MULTI) == 0.0
    assert grade(half, language, words=[one, other], method=MULTI, partial=True) == 0.5
    assert grade(half, language, words=[[other, one]], method=MULTI) == 1.0  # equivalents


@pytest.mark.row("raiden", "VRAR", backend="none")
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_repository_profile_grades(language: str) -> None:
    word, other, says = WORD[language], OTHER[language], SAYS[language]
    expected = says.format(word)
    options: dict[str, Any] = {"profile": "repo", "answer": expected}
    assert grade(expected.upper(), language, words=[word], **options) == 1.0
    assert grade(f"{expected} {says.format(other)}", language, words=[word], **options) == 0.7
    assert grade(f"{other} {word}", language, words=[word, "零"], **options) == 0.5
    assert grade(says.format(other), language, words=[word], **options) == 0.0
    terms = [{"a": word, "b": other}]
    assert grade(expected, language, words=[word], method=MULTI, terms=terms, **options) == 0.5
    assert grade(expected, language, words=[word], method=MULTI, terms=[None], **options) == 1.0
    assert grade(expected, language, words=[word], terms=terms, **options) == 1.0  # one term: terms are not read


def test_the_graded_profile_has_steps() -> None:
    words = ["one", "two", "three", "four", "five"]
    said = ["", "one", "one two", "one two three", "one two three four"]
    graded = [grade(text, "en", words=words, method=MULTI, profile="easyr1", answer="all") for text in said]
    assert graded == [0.0, 0.3, 0.5, 0.7, 0.9]
    assert grade("All.", "en", words=words, profile="easyr1", answer="all") == 1.0


@pytest.mark.parametrize("profile", ["paper", "repo", "easyr1"])
@pytest.mark.parametrize(("words", "answer"), [([], "x"), (["…"], "x"), ([[]], "x"), (["x"], ""), (["x"], "。")])
def test_what_cannot_be_checked_has_no_accuracy(profile: Any, words: list[Any], answer: str) -> None:
    assert grade("x", "zh", words=words, answer=answer, profile=profile) is None


def test_a_completion_may_be_messages() -> None:
    messages = [{"role": "assistant", "content": "<think>a</think>I like seafoam."}]
    assert grade(messages, "en", words=["seafoam"]) == 1.0
    assert format([messages, messages[0]], ["en", "en"]) == [1.0, 1.0]
    assert grade([{"role": "assistant", "content": None}], "en", words=["seafoam"]) == 0.0


@pytest.mark.row("raiden", "VRAR", backend="none")
@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a</think> b", 1.0),
        ("<think>a</think>", 0.0),
        ("<think></think>b", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><think>a</think>b", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("<think>a<answer>b</answer>", 0.0),
        ("b", 0.0),
        ("", 0.0),
    ],
)
def test_the_papers_format_is_a_thought_and_then_an_answer(said: str, value: float) -> None:
    assert format([said], ["zh"]) == [value]


@pytest.mark.row("raiden", "VRAR", backend="none")
@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("zh", "首先，因为天黑了。\n\n**结论**：答案是灯。"),
        ("ja", "まず、暗いため灯りが要ります。\n\n**結論**：答えは灯りです。"),
        ("en", "First, because it is dark.\n\n**In conclusion**, the answer is a lamp."),
        ("ko", "먼저, 어둡기 때문에 등이 필요합니다.\n\n**결론**: 정답은 등입니다."),
    ],
)
def test_the_repositorys_format_can_be_earned_in_every_language(language: str, said: str) -> None:
    assert format([said], [language], profile="repo") == [1.0]
    assert format([said.replace("\n\n", " ")], [language], profile="repo") == [0.7]
    assert format(["灯"], [language], profile="repo") == [0.0]


def test_thinking_is_a_closed_thought_that_is_not_empty() -> None:
    assert thinking(["<think>a</think>b", "<think> </think>b", "<think>a", "b"]) == [1.0, 0.0, 0.0, 0.0]


def test_the_reward_is_the_weighted_sum_and_stays_in_bounds() -> None:
    assert weighted(1.0, 1.0) == 1.0
    assert weighted(1.0, 0.0) == 0.7
    assert weighted(None, 1.0) == 0.3
    assert weighted(0.5, 1.0, weights=(0.2, 0.6)) == pytest.approx(0.7)
    for weights in ((-0.1, 0.5), (0.8, 0.3)):
        with pytest.raises(ConfigError, match="at most 1 together"):
            check_weights(*weights)


@given(said=st.text(max_size=60), word=st.text(max_size=6), language=st.sampled_from(LANGUAGES))
def test_every_part_stays_between_0_and_1(said: str, word: str, language: str) -> None:
    for profile in ("paper", "repo", "easyr1"):
        value = grade(said, language, words=[word], profile=profile)
        assert value is None or 0 <= value <= 1
        assert 0 <= format([said], [language], profile=profile)[0] <= 1


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ConfigError, match="profile 'papers' of the role-awareness reward is unknown"):
        accuracy([], [], [], [], [], profile="papers")


def test_a_thought_that_the_prompt_opens_is_part_of_the_format() -> None:
    """Finding F4: templates such as DeepSeek-R1-Distill's open the thought in the prompt."""
    said, prompts = ["a</think><answer>x</answer>", "a</think>x"], ["Who?<think>\n"] * 2
    assert format(said, ["en"] * 2, prompts) == thinking(said, prompts) == [1.0, 1.0]
    assert format(said, ["en"] * 2, ["Who?"] * 2) == thinking(said) == [0.0, 0.0]


def test_a_keyword_in_a_thought_that_the_prompt_opens_earns_nothing() -> None:
    said = ["Paris", "Rome</think>Paris"]
    columns = (["Paris"] * 2, [["Paris"]] * 2, [SINGLE] * 2, ["en"] * 2)
    assert accuracy(said, *columns, prompts=["Where?<think>"] * 2) == [0.0, 1.0]
    assert accuracy(said, *columns) == [1.0, 1.0]
