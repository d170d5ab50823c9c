"""Another program's keys by a table: used, ignored with a reason, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo.compat import translation
from mindrlhf_grpo.compat.translation import Table, Translation
from mindrlhf_grpo.config.file import Draft
from mindrlhf_grpo.errors import ConfigError

EXAMPLE = """
optim: {lr: {to: train.learning_rate, default: 1.0e-6}, style: {to: train.schedule, map: {cos: cosine}}}
epochs: {as: passes, default: 1}
world: the launcher decides
"""
TABLE = Table.parse(
    {
        "a.rate": {"to": "train.learning_rate", "default": 0.5},
        "a.both": {"to": ["algorithm.clip_low", "algorithm.clip_high"]},
        "a.kind": {"to": "algorithm.name", "map": {"group": "grpo"}},
        "a.every": {"to": "checkpoint.every", "off": -1},
        "a.only_with": {"to": "critic.path", "with": {"a.kind": ["value"]}},
        "a.folder": {"default": "${b.name}/out"},
        "b.name": {},
        "b.flag": {},
        "a.mode": {"only": ["sync"]},
        "gpu.*": "there is none",
        "gpu.memory": "it is taken as needed",
        "a.old": "it is gone",
    },
    unknown="{place}: {name} is no name of other that is known here{near}",
    refused="{place}: {name} is {value!r}{near}; accepted here: {accepted}",
)


def read(*arguments: str, file: Path | None = None) -> Translation:
    return Translation.from_words(TABLE, file, ["b.name=x", *arguments])


def test_keys_go_where_the_table_says() -> None:
    settings = read("a.both=0.1", "a.kind=group", "a.every=-1", "a.only_with=model", "+train.steps=3")
    draft = Draft({})
    settings.put_keys(draft)
    assert draft.values == {
        "train": {"learning_rate": 0.5}, "algorithm": {"clip_low": 0.1, "clip_high": 0.1, "name": "grpo"},
        "checkpoint": {"every": 0},
    }  # fmt: skip
    assert settings.our_settings == ["train.steps=3"]
    assert settings.notes() == ["ignored, it has no effect with a.kind=group: a.only_with"]
    assert draft.place(("algorithm", "clip_low")) == "argument a.both=0.1"


def test_later_values_win_and_references_are_put_in(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("a: {rate: 0.1}\nb.name: y\ngpu: {count: 8, memory: 0.5}\n")
    settings = Translation.from_words(TABLE, tmp_path / "file.yaml", ["a.rate=1e-3", "++b.flag=true"])
    assert (settings.number("a.rate"), settings.get("a.folder"), settings.flag("b.flag")) == (0.001, "y/out", True)
    assert settings.place("b.name") == f"{tmp_path}/file.yaml:2"
    assert settings.ignored == {"gpu.count": "there is none", "gpu.memory": "it is taken as needed"}
    assert read().notes() == []


def test_the_example_in_the_documentation_holds() -> None:
    assert EXAMPLE in str(translation.__doc__).replace("\n    ", "\n")
    read_file = Table.parse(yaml.safe_load(EXAMPLE)).read({"optim": {"style": "cos"}, "epochs": 3, "world": 8})
    assert read_file.our_values() == {"train.learning_rate": 1e-6, "train.schedule": "cosine"}
    assert read_file.named_values() == {"passes": 3}
    assert read_file.ignored == {"world": "the launcher decides"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.rat=1"], r"argument a.rat=1: a.rat is no name of other that is known here \(did you mean 'a.rate'\?\)"),
        (["a.mode=async"], "a.mode is 'async'; accepted here: sync"),
        (["a.rate"], "'a.rate': expected name=value"),
        (["a.folder=${c}"], r"a.folder is '\$\{c\}', which refers to nothing that is set"),
        (["x=1", "y=2"], "2 problems:"),
    ],
)
def test_what_cannot_be_taken_is_listed(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(*arguments)


@pytest.mark.parametrize(("name", "how"), [("b.name", "number"), ("b.name", "flag")])
def test_values_of_another_type_are_refused(name: str, how: str) -> None:
    settings: Any = read()
    with pytest.raises(ConfigError, match=r"argument b.name=x: b.name is 'x'; accepted: "):
        getattr(settings, how)(name)


def test_names_that_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"b.flag must be given, like b.flag=\.\.\."):
        read().require(["b.name", "b.flag"])


def test_a_row_with_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"of a table: defualt; a row has alone, as, choices, default"):
        Table.parse({"lr": {"to": "train.learning_rate", "defualt": 1}})


KEYS = Table.parse(
    {
        "lr": {"to": "train.learning_rate", "default": 0.1},
        "half": {"to": "model.dtype", "default": True, "map": {True: "bfloat16", False: "float32"}},
        "both": {"to": ["rewards.0.arguments.p", "rewards.1.arguments.p"]},
        "epochs": {"default": 1},
        "steps": {"as": "count"},
        "old": "it is gone",
        "section": {"a": {"b": {"to": "seed"}}, "*": "of another kind"},
    }
)


def test_their_keys_become_ours_with_defaults_and_mapped_values() -> None:
    draft = Draft({"rewards": [{}, {}]})
    given = {"lr": 0.5, "both": "x", "steps": 3, "old": 1, "section": {"a": {"b": 7}, "c": {"d": 1}}}
    found = KEYS.read(given, lambda path: f"file.yaml ({path[-1]})")
    found.put_keys(draft)
    assert found.named_values() == {"epochs": 1, "count": 3}
    assert found.ignored == {"old": "it is gone", "section.c": "of another kind"}
    assert draft.values == {
        "rewards": [{"arguments": {"p": "x"}}, {"arguments": {"p": "x"}}],
        "train": {"learning_rate": 0.5},
        "model": {"dtype": "bfloat16"},
        "seed": 7,
    }
    assert draft.place(("train", "learning_rate")) == "file.yaml (lr)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lrr": 1}, r"file.yaml: lrr is unknown \(did you mean 'lr'\?\)"),
        ({"half": "x"}, "file.yaml: half is 'x'; accepted: true, false"),
        ({"section": {"a": {"zz": 1}}}, r"file.yaml: section.a.zz is unknown; section.a has b"),
        ({"section": 3}, "file.yaml: section is 3, not a section"),
    ],
)  # fmt: skip
def test_keys_and_values_that_are_none_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        KEYS.read(given, lambda path: "file.yaml").put_keys(Draft({"rewards": [{}, {}]}))


def test_a_key_with_a_plus_is_theirs_unless_it_lies_in_a_section_of_ours() -> None:
    """Finding F5: ``+section.key`` of Hydra adds a key of theirs; ours are told by their section."""
    settings = read("+a.rate=0.25", "++gpu.count=8", "+train.steps=3")
    assert (settings.number("a.rate"), settings.our_settings) == (0.25, ["train.steps=3"])
    assert settings.ignored == {"gpu.count": "there is none"}
    with pytest.raises(ConfigError, match=r"a.rat is no name of other that is known here \(did you mean 'a.rate'\?\)"):
        read("+a.rat=1")


def test_a_key_with_a_tilde_takes_back_what_was_given(tmp_path: Path) -> None:
    """Finding F5: ``~key`` of Hydra, for a key or for a section; the default holds again."""
    (tmp_path / "file.yaml").write_text("a: {rate: 0.1, both: 0.3}\ngpu: {count: 8}\n")
    settings = read("~a.rate", "~gpu", file=tmp_path / "file.yaml")
    assert (settings.number("a.rate"), settings.number("a.both"), settings.ignored) == (0.5, 0.3, {})
    assert settings.place("a.rate") == "default of a.rate"
    assert read("~a", file=tmp_path / "file.yaml").get("a.both") is None
    with pytest.raises(ConfigError, match=r"argument ~a.rat: a.rat is no name of other"):
        read("~a.rat")


def test_notes_name_each_reason_once_and_what_changes_numbers_last() -> None:
    """Finding F30: keys without a meaning are grouped by their reasons."""
    settings = read("a.old=1", "gpu.count=8", "gpu.kind=x", "gpu.memory=0.5")
    settings.changes.append("the second digit")
    assert settings.notes() == [
        "ignored, there is none: gpu.count, gpu.kind", "ignored, it is gone: a.old",
        "ignored, it is taken as needed: gpu.memory", "differs: the second digit",
    ]  # fmt: skip


def test_a_message_about_our_keys_names_theirs() -> None:
    """Finding F34: an error of the core about a key that a table sets says by which of their keys."""
    table = Table.parse(
        {"theirs": {"to": "data.max_prompt_tokens"}, "cut": {"sets": "data.overlong"}, "x": {"to": "data"}}
    )
    said = Translation(table).in_their_words(
        "row 3 is too long; raise data.max_prompt_tokens, or set data.overlong: drop"
    )
    assert said.splitlines()[1:] == [
        "  here data.max_prompt_tokens is set by theirs", "  here data.overlong is set by cut",
    ]  # fmt: skip
    assert Translation(table).in_their_words("no key") == "no key"
