"""Command lines of other programs: arguments by a table, flags without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mindrlhf_grpo.compat.arguments import put_arguments, read_flags, read_options, read_script_arguments, with_options
from mindrlhf_grpo.config.file import Draft
from mindrlhf_grpo.errors import ConfigError

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


ROWS: dict[str, Any] = {
    "rate": {"default": 0.1, "help": "100% of it.", "to": "train.learning_rate"},
    "fast": {"default": False, "help": "A switch.", "to": "model.recompute"},
    "names": {"default": ["a"], "many": True, "help": "Several.", "to": "model.lora_targets"},
    "path": {"kind": "text", "required": True, "help": "Must be given."},
    "kind": {"default": "none", "choices": ["none", "log"], "help": "One of them."},
    "old": {"default": 1, "help": "Nothing.", "ignored": "it is gone"},
}


def test_arguments_of_a_script_are_read_and_put_where_they_belong() -> None:
    given = read_script_arguments("go", ["--path", "x", "--fast", "--names", "b", "c", "--old", "2"], ROWS)
    assert given == {"rate": 0.1, "fast": True, "names": ["b", "c"], "path": "x", "kind": "none", "old": 2}
    draft, told = Draft({}), list[str]()
    put_arguments(draft, ROWS, given, told.append)
    assert draft.values == {"train": {"learning_rate": 0.1}, "model": {"recompute": True, "lora_targets": ["b", "c"]}}
    assert draft.place(("model", "recompute")) == "--fast"
    assert told == ["without effect here: --old (it is gone)"]
    put_arguments(draft, ROWS, {**given, "old": 1}, told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--path", "x", "--rat", "1"], "unknown argument --rat (did you mean 'rate'?)"),
        (["--path", "x", "train.steps=1"], "unknown argument train.steps=1"),
        (["--path", "x", "--kind", "lag"], "invalid choice: 'lag'"),
        (["--path", "x", "--rate", "fast"], "invalid float value: 'fast'"),
        (["--path", "x", "--fast", "maybe"], "'maybe' is neither true nor false"),
        ([], "the following arguments are required: --path"),
    ],
)
def test_a_mistake_ends_a_script_with_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_script_arguments("go", words, ROWS)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_help_of_a_script_has_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_script_arguments("go", ["--help"], ROWS)
    assert stopped.value.code == 0
    assert "100% of it. [0.1]" in capsys.readouterr().out
