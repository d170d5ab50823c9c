"""Rewards that are classes with their own models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards.sources import ModelClassSource
from mindrlhf_grpo.trainers.preflight import Findings, _check_reward
from mindrlhf_grpo.types import RolloutGroup

Groups = Callable[..., RolloutGroup]

USER = """
from mindrlhf_grpo.errors import ConfigError

class Own:
    uses_models = True
    closed = []

    def __init__(self, backend, policy_folder, *, column, limit=3):
        if limit < 1:
            raise ConfigError(f"limit is {limit}")
        self.backend, self.folder, self.column, self.limit = backend, policy_folder, column, limit

    def check(self, columns):
        if self.column not in columns:
            raise ConfigError(f"no column {self.column}")

    def score(self, groups):
        texts = [rollout.text for group in groups for rollout in group.rollouts]
        if "crash" in texts:
            raise ValueError("out of memory")
        if "short" in texts:
            return {"": [1.0]}
        return {"": [float(len(text)) for text in texts], "half": [None if len(t) > self.limit else 0.5 for t in texts]}

    def close(self):
        self.closed.append(self.backend)

class Plain:
    pass
"""


@pytest.fixture
def user(source: Callable[[str], str]) -> str:
    return source(USER)


def config(user: str, **arguments: object) -> RewardConfig:
    return RewardConfig(
        function=f"{user}:Own", name="own", weight=2.0, arguments={"column": "c", **arguments}, on_failure=-1
    )


def test_a_class_is_built_with_backend_and_policy_and_gives_named_components(group: Groups, user: str, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with Rewards([config(user)], backend="the backend", policy=str(tmp_path)) as rewards:
        source = rewards.components[0].source
        assert isinstance(source, ModelClassSource)
        own: Any = source.reward
        table = rewards.score([group(["a", "bbbb"], c=1)])
        assert (own.backend, own.folder) == ("the backend", tmp_path)
    assert own.closed == ["the backend"]
    assert table.names == ("own", "own/half")
    np.testing.assert_array_equal(table.values[:, :, 0], [[1.0, 0.5], [4.0, np.nan]])
    assert table.total()[:, 0].tolist() == [3.0, 8.0]


@pytest.mark.parametrize(("text", "reason"), [("crash", "out of memory"), ("short", "1 entries for 2 samples")])
def test_a_crash_or_a_wrong_answer_fails_the_batch_and_is_said(
    group: Groups, user: str, caplog: pytest.LogCaptureFixture, text: str, reason: str
):
    with Rewards([config(user)]) as rewards:
        table = rewards.score([group([text, "b"], c=1)])
    assert table.values[:, 0, 0].tolist() == [-1.0, -1.0]
    assert table.failures == {"own": 2}
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("Own", {"column": "c"}, ""),
        ("Own", {"column": "d"}, "no column d"),
        ("Own", {}, "needs the argument 'column'"),
        ("Own", {"column": "c", "limmit": 2}, "unknown argument 'limmit'.*limit"),
        ("Own", {"column": "c", "limit": 0}, "limit is 0"),
        ("Plain", {}, "a class without uses_models = True"),
        ("Onw", {}, "has no function 'Onw'"),
    ],
)
def test_everything_wrong_is_found_before_the_run(user: str, name: str, arguments: dict[str, object], problem: str):
    found = Findings()
    _check_reward(found, "rewards.0", RewardConfig(function=f"{user}:{name}", arguments=arguments), ("c",))
    assert len(found.problems) == bool(problem)
    if problem:
        assert re.search(problem, found.problems[0][1])


def test_a_limit_of_time_is_refused(user: str):
    with pytest.raises(ConfigError, match="runs in this process; set timeout: 0"):
        Rewards([config(user).model_copy(update={"timeout": 1.0})])
