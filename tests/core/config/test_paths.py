"""Paths in a configuration mean what a shell's user means by them, or are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.config.paths import local_path
from mindrlhf_grpo.errors import ConfigError, UserError
from mindrlhf_grpo.run.folder import RunFolder
from mindrlhf_grpo.trainers.preflight import problems_of
from tests.support.tiny_run import needs_torch, write_run

REFUSED = {
    "": "the path is empty",
    " ": "the path is empty",
    "s3://bucket/run": "is a URL",
    "$HOME/run": "names the environment variable $HOME",
    "${HOME}/run": "names the environment variable ${HOME}",
    "~nobody_of_that_name/run": "there is no user nobody_of_that_name",
    "a\\0b": "NUL character",
}
KEYS = ("run_dir", "model.path", "data.source", "data.chat_template", "eval.source", "rewards.0.function")


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("key", KEYS)
def test_every_path_key_refuses_what_would_name_another_place(tmp_path: Path, key: str, text: str) -> None:
    """Finding P3.1: ``run_dir: ~/x`` trained into ``./~/x``, ``''`` into the current folder."""
    with pytest.raises(ConfigError) as refused:
        load_config(write_run(tmp_path), [f'{key}="{text}"'])
    assert REFUSED[text] in str(refused.value)
    assert f": {key}: " in str(refused.value)


def test_the_home_folder_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/somebody")
    source = "data.source={name: '~/rows.jsonl'}"
    overrides = ["run_dir=~/run", "model.path=~/m", source, "rewards.0.function=model:~/rm"]
    config = load_config(write_run(tmp_path), overrides)
    assert config.run_dir == Path("/people/somebody/run")
    assert config.model.path == "/people/somebody/m"
    assert config.data.source == {"name": "/people/somebody/rows.jsonl"}
    assert config.rewards[0].function == "model:/people/somebody/rm"
    assert local_path("~/out") == Path("/people/somebody/out")


@needs_torch
@pytest.mark.parametrize("run_dir", ["x" * 300, "/proc/run"])
def test_a_run_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path, run_dir: str) -> None:
    """Finding P3.7: exit 70, "This is a bug"."""
    config = load_config(write_run(tmp_path), [f"run_dir={run_dir}"])
    if len(run_dir) > 255:
        assert any(key == "run_dir" and "cannot be a folder" in text for key, text in problems_of(config))
    with pytest.raises(UserError, match="cannot be made"):
        RunFolder(config.run_dir).open(config, {})
    assert not os.path.exists(run_dir)


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("rollout.group_size=1e9", "at most 100000"),
        ("train.steps=1e23", "at most 1000000000"),
        ("train.learning_rate=1e30", "at most 100"),
        ("train.prompts_per_step=1e12", "at most 1000000000"),
    ],
)
def test_slips_of_the_exponent_are_refused(tmp_path: Path, override: str, limit: str) -> None:
    """Finding P3.13: a group of a billion hung without a word."""
    with pytest.raises(ConfigError, match=limit):
        load_config(write_run(tmp_path), [override])
