"""The user's own metrics: what a function is given, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from mindrlhf_grpo.config.run import MetricConfig
from mindrlhf_grpo.errors import ConfigError, RunFailed
from mindrlhf_grpo.metrics.metric_functions import MetricFunction, MetricFunctions
from mindrlhf_grpo.rewards import RewardTable
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup

HERE = str(Path(__file__))


def share_right(completions: list[str], answer: list[str], *, bonus: float = 0.0) -> dict[str, float]:
    right = [text == wanted for text, wanted in zip(completions, answer, strict=True)]
    return {"right": sum(right) / len(right) + bonus}


def everything(
    rewards: dict[str, Any], total: Any, advantages: Any, lengths: Any, prompt_lengths: Any, truncated: Any, group: Any,
    figures: dict[str, float], split: str, step: int, run_dir: Path, main: bool,
) -> dict[str, float]:  # fmt: skip
    seen = {
        "reward": float(rewards["score"].sum()), "total": float(total.sum()), "lengths": float(lengths.sum()),
        "prompt_lengths": float(prompt_lengths.sum()), "truncated": float(truncated.sum()), "groups": float(group.max() + 1),
        "twice_the_loss": 2 * figures.get("loss", 0.0), "step": step, "main": main, "eval/kept": 1.0,
    }  # fmt: skip
    return seen | ({} if advantages is None else {"advantage_of_last": float(advantages[-1])})


def no_numbers(completions: list[str]) -> dict[str, Any]:
    return {"right": completions}


def broken(completions: list[str]) -> dict[str, float]:
    raise ZeroDivisionError("nothing there")


T = TypeVar("T")


class TwoRanks:
    """This process is rank 0; rank 1 has the same rows."""

    rank, world_size = 0, 2

    @property
    def rows(self) -> TwoRanks:
        return self

    def once(self, compute: Callable[[], T]) -> T:
        return compute()

    def gather_objects(self, item: Any) -> list[Any]:
        return [item, item]

    def barrier(self) -> None: ...
    def close(self) -> None: ...


def groups() -> list[RolloutGroup]:
    texts = [["4", "5"], ["4", "4"]]
    return [
        RolloutGroup(
            prompt=Prompt(uid=uid, ids=np.arange(3), text="2+2?", columns={"answer": "4"}),
            rollouts=tuple(
                Rollout(sample=i, ids=np.arange(i + 1), logps=np.zeros(i + 1), finish=finish, text=text)
                for i, (text, finish) in enumerate(zip(of, (FinishReason.STOP, FinishReason.LENGTH), strict=True))
            ),
        )
        for uid, of in enumerate(texts)
    ]


def table() -> RewardTable:
    return RewardTable.stack([("score", 0.5, np.array([[1.0], [0.0], [1.0], [1.0]]))])


def functions(name: str, **arguments: Any) -> MetricFunctions:
    config = MetricConfig(function=f"{HERE}:{name}", arguments=arguments)
    return MetricFunctions([config], Path("runs/x"), TwoRanks())


def test_a_function_reads_columns_and_settings_of_all_ranks() -> None:
    found = functions("share_right", bonus=1.0).compute(groups(), table(), {}, split="train", step=3)
    assert found == {"right": 1.75}


def test_held_out_names_get_their_prefix_once() -> None:
    found = functions("everything").compute(groups(), table(), {}, split="eval", step=0)
    assert found["eval/reward"] == 6.0
    assert "eval/kept" in found
    assert "eval/eval/kept" not in found


def test_a_function_is_given_the_whole_batch() -> None:
    advantages = np.array([[2.0, 0.0], [1.0, 3.0], [0.0, 0.0], [-1.0, -3.0]])
    found = functions("everything").compute(
        groups(), table(), {"loss": 0.25}, split="train", step=7, advantages=advantages
    )
    assert found == {
        "reward": 6.0, "total": 3.0, "lengths": 12.0, "prompt_lengths": 24.0, "truncated": 4.0, "groups": 4.0,
        "twice_the_loss": 0.5, "step": 7.0, "main": 1.0, "eval/kept": 1.0, "advantage_of_last": -2.0,
    }  # fmt: skip


def test_a_missing_column_is_named_before_the_run() -> None:
    function = MetricFunction.of(MetricConfig(function=f"{HERE}:share_right"), "metrics.0")
    with pytest.raises(ConfigError, match=r"metrics\.0 needs 'answer', which is no column .* there are: task"):
        function.check(["task"])


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.0\.arguments: unknown argument 'bonnus'.*bonus"):
        functions("share_right", bonnus=1)


@pytest.mark.parametrize(
    ("name", "text"), [("no_numbers", "returned something else than numbers"), ("broken", "ZeroDivisionError")]
)
def test_what_a_function_gets_wrong_ends_the_run_with_its_name(name: str, text: str) -> None:
    with pytest.raises(RunFailed, match=rf"metrics\.0 .*{text}"):
        functions(name).compute(groups(), table(), {}, split="train", step=1)
