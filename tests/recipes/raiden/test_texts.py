"""Texts as data: filled in, searched for, replaced piece by piece; mistakes name their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.raiden.languages import Texts, load_texts

TEXTS = Texts({"en": {"ask": "Who is $name? It costs $$5.", "cue": "^(yes|no)$", "bad": "(", "deep": {"er": "x"}}})


def test_placeholders_are_filled_and_values_are_never_read_as_templates() -> None:
    assert TEXTS.fill("en", "ask", name="$Ada {x}") == "Who is $Ada {x}? It costs $5."
    assert TEXTS.fill("en", "deep", "er") == "x"


@pytest.mark.parametrize(
    ("keys", "values", "said"),
    [
        (("en", "ask"), {"who": "Ada"}, r"text en.ask: placeholder 'name'; it may use \$who"),
        (("en", "none"), {}, "there is no text en.none"),
        (("en", "deep"), {}, "there is no text en.deep"),
        (("fr", "ask"), {}, "there is no text fr.ask"),
    ],
)
def test_what_is_not_there_is_named(keys: tuple[str, ...], values: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TEXTS.fill(*keys, **values)


def test_expressions_are_searched_in_any_case_line_by_line() -> None:
    assert TEXTS.matches("en", "cue", text="well\nYES")
    assert not TEXTS.matches("en", "cue", text="yes and no")
    with pytest.raises(ConfigError, match=r"text en.bad: '\(' is no regular expression"):
        TEXTS.matches("en", "bad", text="x")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("[1]", "the file is no mapping"), ("zh: 1", "zh is no mapping"),
     ("zh: {policy: {system: 1}}", "zh.policy.system is 1, not text"), ("zhh: {}", r"unknown zhh \(did you mean 'zh'\?\)"),
     ("a: b: c", "own.yaml:1")],
)  # fmt: skip
def test_a_users_file_that_does_not_fit_is_an_error(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_texts(str(path))
