"""Rewards that are classes with their own models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError, RunFailed
from mindrlhf_grpo.model_files.safetensors import write_tensors
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards.sources import ModelClassSource
from mindrlhf_grpo.trainers.preflight import Findings, _check_reward
from mindrlhf_grpo.types import Prompt, RolloutGroup

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
        self.scored = []

    def check(self, columns):
        if self.column not in columns:
            raise ConfigError(f"no column {self.column}")

    def score(self, groups):
        texts = [rollout.text for group in groups for rollout in group.rollouts]
        if "crash" in texts:
            raise ValueError("out of memory")
        if self.limit == 7:
            raise IndexError("no weights")
        if "leave" in texts:
            raise SystemExit(3)
        if "nan" in texts:
            return {"": [float("nan")] * len(texts)}
        if "bad" in texts:
            return {"": [float("nan") if text == "bad" else 1.0 for text in texts]}
        self.scored.append(texts)
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


def write_model_folder(folder: Path) -> None:
    """The two files that a folder must have, whole, to be taken for a model's."""
    (folder / "config.json").write_text("{}")
    write_tensors(folder / "model.safetensors", {"score.weight": np.ones((1, 4))})


def config(user: str, **arguments: object) -> RewardConfig:
    return RewardConfig(
        function=f"{user}:Own", name="own", weight=2.0, arguments={"column": "c", **arguments}, on_failure=-1
    )


def test_a_class_is_built_with_backend_and_policy_and_gives_named_components(group: Groups, user: str, tmp_path: Path):
    write_model_folder(tmp_path)
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("crash", r"reward 'own' failed: ValueError: out of memory \(.*my_rewards.py:21\)"),
        ("leave", r"reward 'own' failed: SystemExit: 3 \(.*my_rewards.py:25\)"),
        ("short", r"reward 'own' failed: .*has 1 entries for 2 samples \(.*my_rewards.py:4\)"),
        ("nan", r"reward 'own' \(.*my_rewards.py:4\) gave none of 2 completions a value: the first has the value nan"),
    ],
)
def test_a_class_with_models_that_fails_ends_the_run_and_its_line_is_named(
    group: Groups, user: str, text: str, reason: str
):
    """Finding F1: it gave every sample of the batch the value of a failure, and the run went on to the end."""
    with Rewards([config(user)]) as rewards, pytest.raises(RunFailed, match=reason) as raised:
        rewards.score([group([text, "b"], c=1)])
    assert raised.value.exit_code == 3


def test_one_value_of_a_class_that_is_no_number_fails_its_sample_alone(group: Groups, user: str):
    with Rewards([config(user)]) as rewards:
        table = rewards.score([group(["a", "bad"], c=1)])
    assert table.values[:, 0, 0].tolist() == [1.0, -1.0]
    assert (table.failures, table.reasons["own"][:13]) == ({"own": 1}, "the value nan")


def test_classes_judge_a_literal_completion_before_a_run(user: str):
    """Finding F1: a class that cannot work is found in the first seconds, not after the first rollouts."""

    class Letters:
        def encode(self, text: str) -> list[int]:
            return list(range(len(text)))

    prompt = Prompt(uid=0, ids=np.arange(3), text="2+2=", columns={"c": 1})
    with Rewards([config(user)]) as rewards:
        rewards.rehearse(prompt, Letters())  # type: ignore[arg-type]  # all that it needs of a tokenizer
        source: Any = rewards.components[0].source
        assert source.reward.scored == [["The answer is 1."]]
    with Rewards([config(user, limit=7)]) as rewards, pytest.raises(RunFailed, match="IndexError: no weights"):
        rewards.rehearse(prompt, Letters())  # type: ignore[arg-type]


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


JUDGE = "mindrlhf_grpo.rewards.judges:JudgeReward"


@pytest.mark.parametrize(
    ("function", "arguments", "problem"),
    [
        (
            JUDGE,
            {"server": "http://h:1", "options": {"retires": 1}},
            r"unknown option 'retires' \(did you mean 'retries'\?\)",
        ),
        (
            JUDGE,
            {"model": "{model}", "options": {"dtyp": "float32"}},
            r"dtyp is 'float32': .* \(did you mean 'dtype'\?\)",
        ),
        (
            JUDGE,
            {"model": "{model}", "options": {"dtype": "float31"}},
            r"dtype is 'float31': Input should be 'float32' or",
        ),
        (JUDGE, {"model": "{model}", "slots": "many"}, "slots is 'many'"),
        (JUDGE, {"model": "{model}", "judge": None}, "JudgeReward cannot be built with these arguments: TypeError"),
        ("model:{model}", {"max_tokens": "ten"}, "max_tokens is 'ten', a str; it takes a int"),
        ("model:{model}", {"keep": "yes"}, "keep is 'yes', a str; it takes a bool"),
    ],
)
def test_nested_settings_that_do_not_exist_are_named_before_a_run(
    tmp_path: Path, function: str, arguments: dict[str, Any], problem: str
):
    """Each was a traceback, or was taken without a word."""
    write_model_folder(tmp_path)
    (tmp_path / "t.txt").write_text("{{ question }}")
    judge = {"judge": {"template": str(tmp_path / "t.txt"), "verdicts": {"yes": 1.0}}} if function == JUDGE else {}
    filled = {name: str(tmp_path) if value == "{model}" else value for name, value in arguments.items()}
    found = Findings()
    config = RewardConfig(function=function.replace("{model}", str(tmp_path)), arguments={**judge, **filled})
    _check_reward(found, "rewards.0", config, ("answer",))
    assert len(found.problems) == 1, found.problems
    assert re.search(problem, found.problems[0][1])
