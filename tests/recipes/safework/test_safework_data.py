"""Rows in every form of the data, and the errors of unusable ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.data.sources import BadRow, read_rows
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.recipes.safework.data import rows
from mindrlhf_grpo.recipes.safework.row_forms import first_user_text, unwrap_reference

TEXT = {"type": "text", "text": "<image> What is it?"}


def write(folder: Path, *made: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def row(**keys: Any) -> dict[str, Any]:
    return {"prompt": "q", "chosen": "9", "label": "safety", **keys}


@pytest.mark.parametrize(
    "prompt",
    [
        "<image>What is it?",
        {"value": "What is it?"},
        {"role": "user", "content": "What is it?<image>"},
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "What is it?"},
            {"role": "user", "content": "B"},
        ],
        [{"role": "user", "content": [{"type": "image", "image": "a.png"}, TEXT]}],
        {"role": "user", "content": [TEXT]},
        [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A"}],
    ],
)
def test_a_prompt_in_any_form_is_its_first_user_message(prompt: Any):
    assert first_user_text(prompt) == "What is it?"


@pytest.mark.parametrize("prompt", [None, "", 3, [], [{"role": "assistant", "content": "a"}], {"role": "user"}])
def test_a_prompt_without_text_is_refused(prompt: Any):
    with pytest.raises(DataError):
        first_user_text(prompt)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("9", "9"), ("['9']", "9"), (["9"], "9"), ({"value": "9"}, "9"), ({"ground_truth": ["9"]}, "9"), (9, 9),
        ("['9', '8']", "['9', '8']"), ("[9", "[9"), ("[__import__('os')]", "[__import__('os')]"), (None, None), ("[x]", "[x]"),
    ],
)  # fmt: skip
def test_a_reference_is_unwrapped_by_literals_only(value: Any, expected: Any):
    assert unwrap_reference(value) == expected


def registry() -> dict[str, str]:
    return {"safety": "a", "value": "b", "normal": "c"}


def test_rows_come_in_one_form_without_images_where_there_are_none(tmp_path: Path):
    other = {"input": "p", "chosen": "['8']", "extra_info": {"label": "value"}}
    found = rows(write(tmp_path, other), models=registry(), input_key="input")
    assert found == [{"prompt": "p", "reference": "8", "label": "value"}]


def test_images_keep_their_place_and_text_rows_have_none(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    made = rows(write(tmp_path, row(images=["a.png"]), row(images=[]), row(images="b.png")), models=registry())
    assert [one["images"] for one in made if not isinstance(one, BadRow)] == [
        [str((tmp_path / "a.png").resolve())],
        [],
        ["b.png"],
    ]


def test_bad_rows_are_kept_with_their_line_and_reason(tmp_path: Path):
    bad = [
        row(label=None), row(prompt=""), row(label="general_rule", chosen=""), row(chosen={"a": 1}),
        row(label="muldimif", chosen="{"), row(label=7),
    ]  # fmt: skip
    found = rows(write(tmp_path, row(), *bad), models=registry())
    assert not isinstance(found[0], BadRow)
    reasons = [one.reason for one in found[1:] if isinstance(one, BadRow)]
    words = ["no 'label'", "prompt is empty", "scored by a rule, and 'chosen' is empty", "none of value, ground_truth",
             "constraints are no JSON", "no 'label'"]  # fmt: skip
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
    assert found[2].place.endswith("rows.jsonl:3")
    only_text = rows(write(tmp_path, row(images=["a.png"])), text_only=True, models=registry())
    assert "text_only" in only_text[0].reason


@pytest.mark.row("safework", "Routing", backend="none")
def test_labels_that_nothing_scores_stop_the_run_at_its_start(tmp_path: Path):
    module = "mindrlhf_grpo.recipes.safework.data:rows"
    path = write(tmp_path, row(), row(label="safty"))
    with pytest.raises(DataError, match=r"rows.jsonl: label 'safty' is unknown \(did you mean 'safety'"):
        read_rows({"name": module, "path": path, "models": registry()})
    with pytest.raises(DataError, match=r"judge 'safety', which is not among the models \(none\)"):
        read_rows({"name": module, "path": write(tmp_path, row())})
    path = write(tmp_path, row(), row(label="safty"))
    assert len(read_rows({"name": module, "path": path, "on_missing_rm": "one"})) == 2


def test_a_row_that_fails_after_it_was_read_is_named_by_file_and_line(tmp_path: Path):
    """Finding F24: it was ``mindrlhf_grpo.recipes.safework.data:rows[1]``, in shuffled order and without a file."""
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": "q", "chosen": "9", "label": "general_rule", "images": [name]} for name in ("a.png", "b.png")]
    path.write_text("\n" + "".join(json.dumps(line) + "\n" for line in lines))
    source = read_rows({"name": "mindrlhf_grpo.recipes.safework.data:rows", "path": str(path)})
    assert [source.place(index) for index in range(2)] == [f"{path}:2", f"{path}:3"]
