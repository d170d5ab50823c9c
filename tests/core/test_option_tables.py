"""Options and keys of other programs as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mindrlhf_grpo.config_file import Draft
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.foreign.option_tables import read_arguments, read_flags, translate, with_options

TABLE: dict[str, Any] = {
    "some_file": {"kind": "path", "default": "a/b", "help": "A file."},
    "how_many": {"kind": "int", "default": 2, "min": 0, "help": "A number."},
    "most": {"kind": "int", "default": None, "help": "Another."},
    "fast": {"kind": "switch", "default": False, "help": "A switch."},
    "name": {"kind": "text", "help": "Must be given."},
}


def called(*arguments: str) -> tuple[dict[str, Any], Any]:
    app, seen = typer.Typer(), {}

    @app.callback()
    def commands() -> None:
        """Two or more commands."""

    @with_options(app, "go", TABLE)
    def go(options: dict[str, Any]) -> None:
        """Help of it."""
        seen.update(options)

    return seen, CliRunner().invoke(app, ["go", *arguments])


def test_a_command_gets_its_options_as_one_dict() -> None:
    assert called("--name", "x")[0] == {
        "some_file": Path("a/b"), "how_many": 2, "most": None, "fast": False, "name": "x",
    }  # fmt: skip
    assert called("--name", "x", "--how-many", "5", "--fast", "--most=1", "--some-file", "c")[0] == {
        "some_file": Path("c"), "how_many": 5, "most": 1, "fast": True, "name": "x",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [(), ("--name", "x", "--how_many", "-1"), ("--name", "x", "--other", "1")])
def test_what_the_table_does_not_allow_is_refused(arguments: tuple[str, ...]) -> None:
    assert called(*arguments)[1].exit_code == 2


def test_flags_are_read_as_yaml_values() -> None:
    flags, others = read_flags(
        ["--a", "3e-6", "--b-c=[1, 2]", "--d", "--e=x=y", "f.yaml", "train.steps=2", "--g", "train.x=1"]
    )
    assert flags == {"a": 3e-6, "b_c": [1, 2], "d": True, "e": "x=y", "g": True}
    assert others == ["f.yaml", "train.steps=2", "train.x=1"]


def test_a_file_comes_first_or_as_config() -> None:
    assert read_arguments(["a.yaml", "--x", "1", "k=v"]) == ("a.yaml", {"x": 1}, ["k=v"])
    assert read_arguments(["--config", "a.yaml"]) == ("a.yaml", {}, [])
    with pytest.raises(ConfigError, match=r"one configuration file at most; got a.yaml, b.yaml"):
        read_arguments(["a.yaml", "--config", "b.yaml"])


KEYS: dict[str, list[Any]] = {
    "lr": ["train.learning_rate", 0.1],
    "half": ["model.dtype", True, {"true": "bfloat16", "false": "float32"}],
    "both": [["rewards.0.arguments.p", "rewards.1.arguments.p"], None],
    "epochs": [None, 1],
}


def test_their_keys_become_ours_with_defaults_and_mapped_values() -> None:
    draft = Draft({"rewards": [{}, {}]})
    assert translate(KEYS, {"lr": 0.5, "both": "x"}, draft, "file.yaml") == {"epochs": 1}
    assert draft.values == {
        "rewards": [{"arguments": {"p": "x"}}, {"arguments": {"p": "x"}}],
        "train": {"learning_rate": 0.5},
        "model": {"dtype": "bfloat16"},
    }
    assert draft.place(("train", "learning_rate")) == "file.yaml (lr)"


@pytest.mark.parametrize(
    ("given", "said"),
    [({"lrr": 1}, r"file.yaml: there is no key 'lrr' \(did you mean 'lr'\?\)"), ({"half": "x"}, "half is 'x'; it takes true, false")],
)  # fmt: skip
def test_keys_and_values_that_are_none_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        translate(KEYS, given, Draft({"rewards": [{}, {}]}), "file.yaml")
