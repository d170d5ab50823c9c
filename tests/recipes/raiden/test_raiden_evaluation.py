"""SBK and CM of hand-written responses: as a result, as metrics, and by a judge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.chat.chat_server import ChatServer
from mindrlhf_grpo.errors import RequestRefused, UserError
from mindrlhf_grpo.recipes.raiden.data import Sample
from mindrlhf_grpo.recipes.raiden.evaluation import evaluate_responses, role_scores, server_judge
from mindrlhf_grpo.recipes.raiden.languages import load_texts
from mindrlhf_grpo.user_functions import named_function
from tests.support.fake_chat_server import serve
from tests.support.recipes.raiden_files import samples, task_of

EVERY = [Sample.model_validate(sample) for sample in samples()]  # per language: one SBK, one CM
SBK = [sample for sample in EVERY if sample.kind == "sbk"]


def right_or_not(right: Any) -> list[str]:
    return [sample.answer if right(sample) else "…" for sample in EVERY]


@pytest.mark.row("raiden", "Evaluate", backend="none")
def test_half_of_the_script_and_all_of_the_memory() -> None:
    responses = right_or_not(lambda sample: sample.kind == "cm" or sample.language in ("zh", "en"))
    found = evaluate_responses(EVERY, responses)
    assert found["aggregate"] == {
        "avg_sbk": 0.5, "avg_cm": 1.0, "avg_overall": 0.75, "num_samples": 8, "num_sbk": 4, "num_cm": 4,
    }  # fmt: skip
    assert found["by_language"]["zh"]["avg_sbk"] == 1.0
    assert found["by_language"]["ko"]["avg_sbk"] == 0.0
    assert found["by_language"]["ko"]["avg_overall"] == 0.5
    assert found["by_question_type"]["what"] == {
        "avg_sbk": 2 / 3, "avg_cm": None, "avg_overall": None, "num_samples": 3, "num_sbk": 3, "num_cm": 0,
    } or found["by_question_type"]["what"]["avg_cm"] is None  # fmt: skip
    assert found["detailed_results"][0].keys() >= {"sample_id", "sbk_score", "response", "language"}
    assert found["detailed_results"][1]["cm_score"] == 1.0
    weighted = evaluate_responses(EVERY, responses, weights=(0.9, 0.1))
    assert weighted["aggregate"]["avg_overall"] == pytest.approx(0.55)


@pytest.mark.row("raiden", "Evaluate", backend="none")
def test_a_class_without_samples_has_no_figure() -> None:
    found = evaluate_responses(SBK, [sample.answer for sample in SBK])
    assert (found["aggregate"]["avg_sbk"], found["aggregate"]["avg_cm"]) == (1.0, None)
    assert found["aggregate"]["avg_overall"] is None
    assert '"avg_cm": null' in json.dumps(found)


def test_what_only_the_thought_knows_is_wrong() -> None:
    found = evaluate_responses(SBK, [f"<think>{sample.answer}</think><answer>…</answer>" for sample in SBK])
    assert found["aggregate"]["avg_sbk"] == 0.0


def test_a_sample_that_cannot_be_checked_is_counted_apart() -> None:
    odd = [SBK[0].model_copy(update={"keywords": []}), SBK[1]]
    found = evaluate_responses(odd, [sample.answer for sample in odd])
    assert (found["unscored"], found["aggregate"]["num_sbk"], found["aggregate"]["avg_sbk"]) == (1, 1, 1.0)


def test_metrics_of_a_run_are_the_same_figures() -> None:
    columns = [sample.columns() for sample in EVERY]
    names = ("answer", "keywords", "validation_method", "language", "kind", "question_type")
    given: dict[str, Any] = {name: [row[name] for row in columns] for name in names}
    found = role_scores(right_or_not(lambda sample: sample.language != "ja"), **given)
    assert (found["sbk"], found["cm"], found["overall"]) == (0.75, 0.75, 0.75)
    assert (found["sbk/ja"], found["cm/ja"], found["sbk/ko"], found["cm/zh"]) == (0.0, 0.0, 1.0, 1.0)
    only = {name: values[:1] for name, values in given.items()}
    alone = role_scores([EVERY[0].answer], **only)
    assert alone["sbk"] == 1.0
    assert math.isnan(alone["cm"])
    assert math.isnan(alone["overall"])


def test_a_judge_of_ones_own_replaces_the_keywords() -> None:
    seen: list[str] = []

    def judge(sample: dict[str, Any], response: str) -> float | None:
        seen.append(sample["question"])
        return {0: 0.25, 1: 0.75, 2: None, 3: 7.0}[len(seen) - 1]

    found = evaluate_responses(SBK, ["x"] * 4, judge=judge)
    assert seen == [sample.question for sample in SBK]
    assert (found["aggregate"]["avg_sbk"], found["judge_failed"]) == (0.5, 2)


def test_a_server_may_judge_in_every_language_and_nonsense_is_counted() -> None:
    verdicts = {"zh": "<think>嗯</think>是", "ja": "いいえ、違います。", "en": "Yes!", "ko": "글쎄요"}
    with serve(lambda messages: verdicts[task_of(messages)[0]]) as server, ChatServer(server.url) as model:
        found = evaluate_responses(SBK, ["x"] * 4, judge=server_judge(model, load_texts()))
    scores = {row["language"]: row["sbk_score"] for row in found["detailed_results"]}
    assert scores == {"zh": 1.0, "ja": 0.0, "en": 1.0, "ko": None}
    assert found["judge_failed"] == 1


def test_a_response_that_the_judges_server_refuses_is_counted() -> None:
    """Finding F8, of its kind: one refused response ended the evaluation."""
    with serve(lambda _: "是") as server, ChatServer(server.url) as model:
        judge, sample = server_judge(model, load_texts()), SBK[0]
        server.troubles = [(400, {})]
        with pytest.raises(RequestRefused):  # of which nothing says that it would answer any other
            judge(sample.model_dump(), "x")
        assert judge(sample.model_dump(), "x") is not None
        server.troubles = [(422, {})]
        found = evaluate_responses([sample, sample], ["long", "x"], judge=judge)
    assert (found["judge_failed"], found["aggregate"]["num_sbk"]) == (1, 1)


def test_a_judge_of_ones_own_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    """The line is the user's own, even where a library raises under it."""
    (tmp_path / "mine.py").write_text("import json\n\ndef judge(sample, response):\n    return json.loads(response)\n")
    judge = named_function(f"{tmp_path / 'mine.py'}:judge")
    with pytest.raises(UserError, match=rf"mine.py:judge failed: JSONDecodeError: .* \({tmp_path / 'mine.py'}:4\)"):
        evaluate_responses(SBK[:1], ["{"], judge=judge)


def test_the_length_of_responses_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        evaluate_responses(SBK, ["x"])
