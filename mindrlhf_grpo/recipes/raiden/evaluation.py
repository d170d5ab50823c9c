"""SBK and CM: the share of right answers about the script and about the conversation.

Computed as a metric function of a run, and over the samples of a file. A class without samples has no value.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...chat.chat_server import ChatModel
from ...errors import RequestRefused
from .data import Sample
from .generation import same_answer
from .languages import Texts
from .rewards import accuracy

LOG = logging.getLogger("mindrlhf_grpo.recipes.raiden.evaluation")
Judge = Callable[[dict[str, Any], str], float | None]
COLUMNS = ("language", "question_type")
Scored = tuple[Mapping[str, Any], float | None]  # a sample's columns, and whether its answer is right


def role_scores(
    completions: list[str], answer: list[str], keywords: list[Any], validation_method: list[str], language: list[str],
    kind: list[str], question_type: list[str], sbk_weight: float = 0.5, cm_weight: float = 0.5,
    prompts: list[str] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return a run's metrics ``sbk``, ``cm``, ``overall``, and the first two by language and question type (``sbk/zh``)."""
    right = correct(completions, answer, keywords, validation_method, language, prompts)
    rows = zip(kind, language, question_type, strict=True)
    scored = list(zip((dict(zip(("kind", *COLUMNS), row, strict=True)) for row in rows), right, strict=True))
    means = class_means(scored, (sbk_weight, cm_weight))
    metrics = {name: means[f"avg_{name}"] for name in ("sbk", "cm", "overall")}
    for column in COLUMNS:
        for value, part in by_column(scored, column).items():
            metrics |= {f"{name}/{value}": part[f"avg_{name}"] for name in ("sbk", "cm") if part[f"num_{name}"]}
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def correct(
    completions: list[Any], answer: list[str], keywords: list[Any], validation_method: list[str], language: list[str],
    prompts: list[str] | None = None,
) -> list[float | None]:  # fmt: skip
    """Return 1 where every keyword is in the final answer, else 0; None where that cannot be checked."""
    shares = accuracy(completions, answer, keywords, validation_method, language, prompts=prompts)
    return [None if value is None else float(value >= 1) for value in shares]


def class_means(scored: Sequence[Scored], weights: tuple[float, float] = (0.5, 0.5)) -> dict[str, Any]:
    """Return the means of the two classes and their weighted mean; None for a class without a scored sample, and then overall."""
    known = [(columns["kind"], score) for columns, score in scored if score is not None]
    classes = [[score for kind, score in known if kind == name] for name in ("sbk", "cm")]
    sbk, cm = (sum(scores) / len(scores) if scores else None for scores in classes)
    overall = None if sbk is None or cm is None else weights[0] * sbk + weights[1] * cm
    counts = {"num_samples": len(scored), "num_sbk": len(classes[0]), "num_cm": len(classes[1])}
    return {"avg_sbk": sbk, "avg_cm": cm, "avg_overall": overall, **counts}


def by_column(scored: Sequence[Scored], column: str) -> dict[str, dict[str, Any]]:
    """Return the class means for each value of a column."""
    values = sorted({columns[column] for columns, _ in scored})
    return {value: class_means([one for one in scored if one[0][column] == value]) for value in values}


def evaluate_responses(
    samples: Sequence[Sample],
    responses: Sequence[str],
    judge: Judge | None = None,
    weights: tuple[float, float] = (0.5, 0.5),
) -> dict[str, Any]:
    """Evaluate one response per sample: ``aggregate``, means by language and question type, ``detailed_results``.

    Args:
        judge: scores a sample (as a dict) and its response in 0..1, in place of the keywords; any other value leaves
            the sample out and counts as ``judge_failed``.
    """
    columns = [sample.columns() for sample in samples]
    names = ("answer", "keywords", "validation_method", "language")
    scores = correct(list(responses), *([row[name] for row in columns] for name in names))
    if judge is not None:
        judged = [judge(sample.model_dump(), response) for sample, response in zip(samples, responses, strict=True)]
        scores = [float(value) if value is not None and 0 <= value <= 1 else None for value in judged]
    scored = list(zip(columns, scores, strict=True))
    details = [
        {
            "sample_id": at,
            f"{row['kind']}_score": score,
            "response": responses[at],
            "question": samples[at].question,
            **{name: row[name] for name in ("character", *COLUMNS)},
        }
        for at, (row, score) in enumerate(scored)
    ]
    return {
        "aggregate": class_means(scored, weights),
        "judge_failed" if judge else "unscored": scores.count(None),
        "by_language": by_column(scored, "language"),
        "by_question_type": by_column(scored, "question_type"),
        "detailed_results": details,
    }


def server_judge(model: ChatModel, texts: Texts) -> Judge:
    """Return a judge that asks a chat model whether a response says the same as the reference answer.

    A request that the model's server refuses (a response that is too long for it) has no score; the first one raises.
    """
    answered = False

    def judge(sample: dict[str, Any], response: str) -> float | None:
        nonlocal answered
        language = Sample.model_validate(sample).language
        try:
            same = same_answer(model, texts, language, sample["question"], sample["answer"], response)
        except RequestRefused as refusal:
            if not answered:
                raise
            LOG.warning("the judge refused a response, which has no score: %s", refusal)
            return None
        answered = True
        return None if same is None else float(same)

    return judge
