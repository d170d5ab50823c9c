"""Samples on disk: checked one by one, split reproducibly, and shown to the policy with their history."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.data.rows import BadRow
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.recipes.raiden.data import Sample, read_items, rows
from mindrlhf_grpo.recipes.raiden.splits import split, statistics, write_dataset
from tests.support.recipes.raiden_files import samples


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def ten() -> list[dict[str, Any]]:
    return [
        {**samples()[0], "question": f"{number}？", "character_profile": {"Name": str(number // 2)}}
        for number in range(10)
    ]


@pytest.mark.row("raiden", "Split", backend="none")
def test_ten_samples_are_split_in_eight_and_two_the_same_for_a_seed(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, ten(), 0.8, 42, "sample") == {"train": 8, "validation": 2}
    first = (tmp_path / "train.json").read_bytes(), (tmp_path / "validation.json").read_bytes()
    write_dataset(tmp_path, ten(), 0.8, 42, "sample")
    assert first == ((tmp_path / "train.json").read_bytes(), (tmp_path / "validation.json").read_bytes())
    write_dataset(tmp_path, ten(), 0.8, 43, "sample")
    assert first[0] != (tmp_path / "train.json").read_bytes()
    both = json.loads(first[0]) + json.loads(first[1])
    assert sorted(sample["question"] for sample in both) == [f"{number}？" for number in range(10)]


@pytest.mark.row("raiden", "Split", backend="none")
def test_by_character_none_is_on_both_sides(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, ten(), 0.8, 1, "character") == {"train": 8, "validation": 2}
    sides = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("train", "validation")]
    one, other = ({sample["character_profile"]["Name"] for sample in side} for side in sides)
    assert not one & other


@pytest.mark.parametrize(("count", "share", "first"), [(100, 0.29, 29), (1, 0.9, 0), (10, 0.0, 0), (10, 1.0, 10)])
def test_shares_are_rounded_down_exactly(count: int, share: float, first: int) -> None:
    assert len(split(list(range(count)), share, seed=0)[0]) == first


def test_statistics_count_every_kind() -> None:
    found = statistics(samples())
    assert (found["total"], found["single_term"], found["multi_term"]) == (8, 4, 4)
    assert found["source"] == {"written_sbk": 4, "written_cm": 4}
    assert found["language"] == {"zh": 2, "ja": 2, "en": 2, "ko": 2}
    assert found["difficulty"] == {"easy": 4, "medium": 4}


def test_the_seeds_own_sample_is_read(tmp_path: Path) -> None:
    sample = {
        "character_name": "小明", "character_profile": {"Name": "小明", "Gender": "female", "Introduction": "简介", "Detailed Description": "详细"},
        "conversation_history": [], "question": "你叫什么名字？", "answer": "我叫小明。", "keywords": ["小明"],
        "question_type": "what", "validation_method": "multi_term_dynamic_parsing", "difficulty": "easy",
        "metadata": {"source": "sglang_sbk", "model": "GLM-4.6", "language": "zh"},
    }  # fmt: skip
    (row,) = rows(str(write(tmp_path / "train.json", [sample])))
    assert isinstance(row, dict)
    assert (row["kind"], row["language"], row["validation_method"]) == ("sbk", "zh", "multi_term_parsing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": ""}, "question: String should have at least 1 character"),
        ({"question_type": "whom"}, "question_type: Input should be 'what'.*not 'whom'"),
        ({"keywords": "茶"}, "keywords: Input should be a valid list"),
        ({"conversation_history": [{"role": "system", "content": "x"}]}, "conversation_history.0.role"),
        ({"character_profile": None}, "character_profile: Input should be a valid dictionary"),
    ],
)
def test_a_bad_sample_is_a_bad_row_with_its_place_and_reason(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = samples()[0]
    first, second = rows(str(write(tmp_path / "train.json", [good, {**good, **change}])))
    assert isinstance(first, dict)
    assert isinstance(second, BadRow)
    assert second.place == f"{tmp_path / 'train.json'}[1]"
    assert re.search(said, second.reason)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("[", "no JSON"), ("[]", "an empty one"), ("{}", "not|but dict"), ("\ud800", "no JSON")],
)
def test_a_file_that_holds_no_samples_is_an_error(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "train.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=said):
        read_items(path, Sample)


@pytest.mark.parametrize("language", ["zh", "ja", "en", "ko"])
def test_the_policy_is_asked_with_character_history_question_and_form(tmp_path: Path, language: str) -> None:
    memory = next(s for s in samples() if s["metadata"]["language"] == language and s["conversation_history"])
    (row,) = rows(str(write(tmp_path / "train.json", [memory])))
    assert isinstance(row, dict)
    messages = row["prompt"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    profile, history = memory["character_profile"], memory["conversation_history"]
    for value in profile.values():
        assert value in messages[1]["content"]
    assert messages[1]["content"].endswith(history[0]["content"])
    assert [message["content"] for message in messages[2:5]] == [turn["content"] for turn in history[1:4]]
    assert messages[-1]["content"].startswith(memory["question"])
    assert "<think></think>" in messages[-1]["content"]
    assert row["kind"] == "cm"


def test_texts_are_replaceable_by_file(tmp_path: Path) -> None:
    data = write(tmp_path / "train.json", samples()[:1])
    own = write(tmp_path / "texts.yaml", "zh: {policy: {format: 'Just answer.'}}")
    plain, changed = rows(str(data)), rows(str(data), texts=str(own), system_prompt="Be kind.")
    assert isinstance(plain[0], dict)
    assert isinstance(changed[0], dict)
    assert changed[0]["prompt"][-1]["content"].endswith("Just answer.")
    assert changed[0]["prompt"][0] == {"role": "system", "content": "Be kind."}
    assert "Just answer." not in plain[0]["prompt"][-1]["content"]
    with pytest.raises(ConfigError, match=r"unknown zh.policy.formt \(did you mean 'format'\?\)"):
        rows(str(data), texts=str(write(tmp_path / "bad.yaml", "zh: {policy: {formt: x}}")))


def test_a_row_that_fails_after_it_was_read_is_named_by_its_file(tmp_path: Path) -> None:
    """Finding F24: it was ``mindrlhf_grpo.recipes.raiden.data:rows[1]``."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps(samples(), ensure_ascii=False), encoding="utf-8")
    source = read_rows({"name": "mindrlhf_grpo.recipes.raiden.data:rows", "path": str(path)})
    assert source.place(1) == f"{path}[1]"
