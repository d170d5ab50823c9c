"""Held-out sets by name: each has its own figures, and a limit takes so many of each."""

from __future__ import annotations

import numpy as np

from mindrlhf_grpo.rewards import RewardTable
from mindrlhf_grpo.trainers.evaluation import HeldOut
from mindrlhf_grpo.trainers.rows import first_of_each
from mindrlhf_grpo.types import Prompt, Sampling


def prompts(*sources: str) -> list[Prompt]:
    return [Prompt(uid=n, row=n, ids=np.ones(1, np.int32), text="", source=source) for n, source in enumerate(sources)]


def table(values: list[float]) -> RewardTable:
    return RewardTable(names=("right",), weights=np.ones(1), values=np.asarray(values)[:, None, None])


def held_out(*sources: str, samples: int = 1) -> HeldOut:
    return HeldOut(prompts=prompts(*sources), sampling=Sampling(max_tokens=4), samples=samples)


def test_each_source_has_its_accuracy_and_number() -> None:
    assert held_out("math", "math", "code", samples=2).source_metrics(table([1, 0, 1, 1, 0, 0])) == {
        "eval/source/code/problems": 1.0, "eval/source/code/reward": 0.0, "eval/source/code/accuracy": 0.0,
        "eval/source/math/problems": 2.0, "eval/source/math/reward": 0.75, "eval/source/math/accuracy": 0.75,
    }  # fmt: skip


def test_a_graded_reward_is_no_accuracy() -> None:
    assert held_out("a", "b").source_metrics(table([0.5, 1.0])) == {
        "eval/source/a/problems": 1.0, "eval/source/a/reward": 0.5,
        "eval/source/b/problems": 1.0, "eval/source/b/reward": 1.0, "eval/source/b/accuracy": 1.0,
    }  # fmt: skip


def test_one_source_has_no_figures_of_its_own() -> None:
    assert held_out("", "").source_metrics(table([1, 0])) == {}


def test_a_limit_takes_so_many_of_each() -> None:
    drawn = prompts("a", "a", "a", "b", "c", "c")
    assert [one.row for one in first_of_each(drawn, 2)] == [0, 1, 3, 4, 5]
    assert first_of_each(drawn, None) == drawn
