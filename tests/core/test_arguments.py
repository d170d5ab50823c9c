"""Command lines of other programs: arguments by a table, flags without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.foreign.arguments import read_flags, read_options, with_options

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
    file, flags, own = read_flags(
        ["--a", "3e-6", "--b-c=[1, 2]", "--d", "--e=x=y", "f.yaml", "train.steps=2", "--g", "train.x=1"]
    )
    assert flags == {"a": 3e-6, "b_c": [1, 2], "d": True, "e": "x=y", "g": True}
    assert (file, own) == ("f.yaml", ["train.steps=2", "train.x=1"])


def test_options_are_texts_of_known_names() -> None:
    words = ["--out", "data/date=1/x.jsonl", "a.b=1", "--file-name=3", "--fast", "+c=2"]
    options, others = read_options(words, ["out", "file_name", "fast"])
    assert options == {"out": "data/date=1/x.jsonl", "file_name": "3", "fast": "true"}
    assert others == ["a.b=1", "+c=2"]
    with pytest.raises(ConfigError, match=r"option '--ou' is unknown \(did you mean 'out'\?\)"):
        read_options(["--ou", "x"], ["out"])


def test_a_file_comes_first_or_as_config() -> None:
    assert read_flags(["a.yaml", "--x", "1", "k=v"]) == ("a.yaml", {"x": 1}, ["k=v"])
    assert read_flags(["--config", "a.yaml"]) == ("a.yaml", {}, [])
    with pytest.raises(ConfigError, match=r"one configuration file at most; got a.yaml, b.yaml"):
        read_flags(["a.yaml", "--config", "b.yaml"])
