"""The references of a data set, scored by the rewards that compare with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.rewards.references import ReferenceScores, scores_of
from mindrlhf_grpo.types import Prompt


def prompts(rows: list[dict[str, Any]]) -> list[Prompt]:
    return [
        Prompt(uid=place, row=place, ids=np.arange(3), text="question", columns=columns)
        for place, columns in enumerate(rows)
    ]


def scored(config: RewardConfig, rows: list[dict[str, Any]]) -> ReferenceScores:
    found = scores_of(config, prompts(rows))
    assert found is not None
    return found


def test_rows_whose_own_reference_scores_less_are_named() -> None:
    rows = [{"answer": answer} for answer in ("4", "1/2", "a dozen", "#### 1,234", 7)]
    found = scored(RewardConfig(function="numeric_match"), rows)
    assert [one.score for one in found.scores] == [1.0, 1.0, None, 1.0, 1.0]
    assert found.text == "numeric_match: 4 of 5 references score 1; less: row 2 ('a dozen') none"


@pytest.mark.parametrize(
    ("config", "row"),
    [
        (RewardConfig(function="exact_match", arguments={"tag": "answer"}), {"solution": "blue"}),
        (RewardConfig(function="exact_match", arguments={"column": "gold"}), {"gold": "blue"}),
        (RewardConfig(function="math_accuracy"), {"answer": "$\\frac{1}{2}$"}),
        (
            RewardConfig(function="unit_tests"),
            {"test_list": ["assert add(1, 2) == 3"], "code": "def add(a, b):\n    return a + b"},
        ),
    ],
)
def test_every_verifier_gives_its_own_reference_full_marks(config: RewardConfig, row: dict[str, Any]) -> None:
    found = scored(config, [row])
    assert ([one.score for one in found.scores], found.below) == ([1.0], [])


def test_a_function_of_ones_own_that_reads_the_answer_is_asked_and_its_best_is_full_marks(
    source: Callable[[str], str],
) -> None:
    path = source(
        "def two(completions, answer):\n    return [2.0 * (c == a != 'x') for c, a in zip(completions, answer)]"
    )
    found = scored(RewardConfig(function=f"{path}:two"), [{"answer": "1"}, {"answer": "x"}])
    assert found.text == "two: 1 of 2 references score 2; less: row 1 ('x') 0"


def test_rewards_without_references_are_left_out(source: Callable[[str], str]) -> None:
    path = source("def long(completions):\n    raise ValueError")
    rows = prompts([{"answer": "1"}])
    for config in (RewardConfig(function="length", arguments={"tokens": 3}), RewardConfig(function=f"{path}:long"),
                   RewardConfig(function="model:folder")):  # fmt: skip
        assert scores_of(config, rows) is None
    assert scores_of(RewardConfig(function="numeric_match"), prompts([{"answer": None}])) is None
