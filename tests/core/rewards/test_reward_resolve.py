"""Names, files and arguments of rewards, and the errors when they are wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards.resolve import BUILT_INS, load_function, resolve

USER = """
def plain(prompts, completions, completion_ids, *, answer, level=None, scale=1.0):
    return [scale] * len(completions)

def keyed(completions, **kwargs):
    return [float(len(kwargs))] * len(completions)

def positional(prompts, /, completions):
    return completions

async def later(completions):
    return completions

class Judge:
    pass

LIMIT = 3
"""


@pytest.fixture
def user(source: Callable[[str], str]) -> str:
    return source(USER)


def error_of(function: str, **arguments: object) -> str:
    with pytest.raises(ConfigError) as raised:
        resolve(function, arguments, label="reward 'r'")
    return str(raised.value)


@pytest.mark.parametrize("name", [name for name in BUILT_INS if name != "reasoning_gym"])
def test_every_built_in_loads(name: str):
    assert inspect.isfunction(load_function(name, label="reward"))


@pytest.mark.parametrize(("wrong", "nearest"), [("numeric_mach", "numeric_match"), ("maths_accuracy", "math_accuracy")])
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, nearest: str):
    text = error_of(wrong)
    assert f"no built-in function {wrong!r} (did you mean {nearest!r}?)" in text
    assert "pkg.module:function or file.py:function" in text


def test_a_function_of_a_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "judge_package").mkdir()
    (tmp_path / "judge_package" / "judges.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    assert resolve("judge_package.judges:plain", {}, label="r").required[-1] == "answer"


def test_a_function_of_a_file_is_found_and_its_path_made_absolute(user: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(user).parent)
    assert resolve("my_rewards.py:plain", {}, label="r").reference == f"{user}:plain"


def test_a_file_may_import_its_neighbour(tmp_path: Path):
    (tmp_path / "neighbour_of_reward.py").write_text("VALUE = 4.0")
    (tmp_path / "reward.py").write_text("from neighbour_of_reward import VALUE\ndef f(completions): return [VALUE]")
    assert load_function(f"{tmp_path}/reward.py:f", label="r")(completions=["a"]) == [4.0]


def test_a_file_that_is_not_there_is_named():
    assert error_of("nowhere/mine.py:f") == "reward 'r': there is no file nowhere/mine.py"


def test_a_module_that_is_not_there_is_named():
    assert error_of("nowhere_at_all:f") == (
        "reward 'r': there is no module 'nowhere_at_all' on the import path; a file is written path/file.py:function"
    )


def test_a_file_that_fails_says_where(source: Callable[[str], str]):
    text = error_of(source("x = 1\nraise RuntimeError('not today')") + ":f")
    assert "cannot be imported: RuntimeError: not today" in text
    assert "my_rewards.py:2" in text


def test_a_function_that_is_not_there_is_answered_with_the_nearest(user: str):
    assert "has no function 'plane' (did you mean 'plain'?)" in error_of(f"{user}:plane")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Judge", "must be a plain function, not a class"),
        ("later", "must be a plain function, not a coroutine function"),
        ("LIMIT", "'LIMIT' is a int, not a function"),
    ],
)
def test_what_is_not_a_plain_function_is_refused(user: str, name: str, said: str):
    assert said in error_of(f"{user}:{name}")


def test_a_parameter_that_cannot_be_given_by_name_is_refused(user: str):
    assert "'prompts' cannot be given by name" in error_of(f"{user}:positional")


def test_an_unknown_argument_is_answered_with_the_nearest(user: str):
    text = error_of(f"{user}:plain", scal=2.0)
    assert text == "reward 'r': unknown argument 'scal' (did you mean 'scale'?); it takes answer, level, scale"


def test_an_unknown_argument_of_a_built_in_is_refused_though_it_takes_columns():
    assert "unknown argument 'colum' (did you mean 'column'?)" in error_of("numeric_match", colum="gold")


def test_what_the_trainer_gives_cannot_be_set(user: str):
    assert "'prompts' is given by the trainer" in error_of(f"{user}:plain", prompts=[])


def test_a_missing_argument_of_a_built_in_is_named():
    assert "needs the argument 'pattern'" in error_of("regex")


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("regex", {"pattern": "(a"}, "argument 'pattern' is '(a': Input should be a valid regular expression"),
        ("regex", {"pattern": "a", "where": "end"}, "argument 'where' is 'end': Input should be 'anywhere', 'start'"),
        ("overlong", {"max_tokens": 0, "buffer": 1}, "argument 'max_tokens' is 0: Input should be greater than"),
        ("language", {"want": "klingon"}, "argument 'want' is 'klingon': Input should be 'zh', 'ja', 'en', 'ko'"),
        ("repetition", {"ngram": "three"}, "argument 'ngram' is 'three': Input should be a valid integer"),
    ],
)
def test_a_wrong_value_for_a_built_in_is_refused(function: str, arguments: dict[str, object], said: str):
    assert said in error_of(function, **arguments)


def test_a_column_that_is_missing_is_named_with_those_there_are(user: str):
    reward = resolve(f"{user}:plain", {}, label="reward 'r'")
    with pytest.raises(ConfigError) as raised:
        reward.check(["question", "gold"])
    assert str(raised.value) == (
        "reward 'r' needs 'answer', which is no column of the data and not set under arguments; "
        "columns there are: question, gold"
    )


def given(*names: str) -> dict[str, list[object]]:
    return {name: [1] for name in ("prompts", "completions", "completion_ids", *names)}


def test_a_function_gets_the_columns_it_names(user: str):
    reward = resolve(f"{user}:plain", {"scale": 2.0}, label="r")
    assert set(reward.inputs(given("answer", "level", "scale", "other"))) == {
        "prompts", "completions", "completion_ids", "answer", "level",
    }  # fmt: skip


def test_a_function_with_open_columns_gets_them_all(user: str):
    reward = resolve(f"{user}:keyed", {"level": 3}, label="r")
    assert set(reward.inputs(given("answer", "level"))) == {"prompts", "completions", "completion_ids", "answer"}


def test_a_data_column_never_replaces_a_setting_of_a_built_in():
    reward = resolve("numeric_match", {}, label="r")
    assert "tag" not in reward.inputs(given("answer", "tag", "tolerance"))


def test_a_function_cannot_change_what_the_next_one_reads(user: str):
    columns = given("answer")
    resolve(f"{user}:plain", {}, label="r").inputs(columns)["completions"].clear()
    assert columns["completions"] == [1]


def test_importing_rewards_loads_no_heavy_library():
    code = "import sys, mindrlhf_grpo.rewards; print(*{'torch', 'mindspore', 'pydantic', 'math_verify', 'sympy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_settings_that_contradict_each_other_are_found_before_a_model_is_loaded():
    """Finding F33: an overlong buffer above the length was found at the first reward."""
    assert error_of("overlong", max_tokens=20, buffer=21) == "reward overlong: buffer (21) is above max_tokens (20)"
    assert resolve("overlong", {"max_tokens": 20, "buffer": 20}, label="reward 'r'").settings["buffer"] == 20


def test_settings_of_a_recipes_function_are_checked_as_those_of_a_built_in():
    """Finding F28: an unknown profile of RAIDEN's reward was found at the first reward."""
    text = error_of("mindrlhf_grpo.recipes.raiden.rewards:accuracy", profile="bar")
    assert "argument 'profile' is 'bar': Input should be 'paper', 'repo' or 'easyr1'" in text
