"""Profiles are read from system prompts, and their language is detected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.recipes.raiden.languages import detect_language
from mindrlhf_grpo.recipes.raiden.profiles import parse_profile, profile_text, read_profiles

UNKNOWN = {"Name": "Unknown", "Gender": "unknown", "Introduction": "", "Detailed Description": ""}


def block(text: str) -> str:
    return f"...[角色扮演系统提示词]...\n\n<Character Setting>\n{text}\n</Character Setting>\n\n...[其他设定]..."


@pytest.mark.row("raiden", "Profile parsing", backend="none")
@pytest.mark.parametrize(
    ("prompt", "profile"),
    [
        (
            block("Name: 小明\nGender: male\nIntroduction: 一个高中生。\nDetailed Description: 小明今年17岁。性格活泼。"),
            {"Name": "小明", "Gender": "male", "Introduction": "一个高中生。", "Detailed Description": "小明今年17岁。性格活泼。"},
        ),
        (block("Name：小明\nGender：male"), {**UNKNOWN, "Name": "小明", "Gender": "male"}),
        (
            block("Detailed Description: 一\n二\nGender: x\nName: y"),
            {**UNKNOWN, "Name": "y", "Gender": "x", "Detailed Description": "一\n二"},
        ),
        (block("Name: a\r\nGender: b\r\nIntroduction: c"), {**UNKNOWN, "Name": "a", "Gender": "b", "Introduction": "c"}),
        (block("   Name :  a \n\u3000Gender: b"), {**UNKNOWN, "Name": "a", "Gender": "b"}),
        (
            block("Introduction: one\ntwo\n\nthree\nName: a"),
            {**UNKNOWN, "Name": "a", "Introduction": "one\ntwo\n\nthree"},
        ),
        (block("Name: a\nnot part of it\nGender:"), {**UNKNOWN, "Name": "a"}),
        (block("His Name: is not a label\nName: a"), {**UNKNOWN, "Name": "a"}),
        (block("") + block("Name: second"), UNKNOWN),
    ],
    ids=["the seed's line", "wide colon", "any order", "CRLF", "spaces", "long introduction", "empty", "inside", "first"],
)  # fmt: skip
def test_a_profile_is_exactly_this(prompt: str, profile: dict[str, str]) -> None:
    assert parse_profile(prompt) == profile


@pytest.mark.parametrize("prompt", ["", "Name: a", "<Character Setting> never closed", "</Character Setting>"])
def test_without_a_block_there_is_no_profile(prompt: str) -> None:
    assert parse_profile(prompt) is None


def test_lines_without_a_profile_are_counted_with_their_reason_and_not_by_the_limit(tmp_path: Path) -> None:
    rows = [{"prompt": block("Name: a")}, {"prompt": "no block"}, {"text": 1}, {"prompt": block("Name: b")}]
    path = tmp_path / "profiles.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{broken", json.dumps({"prompt": block("Name: c")})]))
    found = read_profiles(path)
    assert [profile["Name"] for profile in found.parsed] == ["a", "b", "c"]
    assert found.skipped[2] == "no <Character Setting> block"
    assert found.skipped[3] == "no text under 'prompt'"
    assert found.skipped[5].startswith("invalid JSON")
    assert [profile["Name"] for profile in read_profiles(path, 2).parsed] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ('{"prompt": "x"}', "no profile in 1 lines; line 1")]
)
def test_a_file_without_profiles_is_an_error(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "profiles.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_profiles(path)


@pytest.mark.row("raiden", "Language", backend="none")
@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "zh"),
        ("...123!?", "zh"),
        ("雾灯是一只会说话的银狐", "zh"),
        ("雾灯喜欢 jazz", "zh"),
        ("abcdefghij", "zh"),
        ("abcdefghijk", "en"),
        ("Brindle is a heron", "en"),
        ("月の裏側の図書館", "ja"),
        ("カタカナ", "ja"),
        ("漢字漢字漢字漢字とか", "ja"),
        ("달콩은 도깨비입니다", "ko"),
        ("한국 Brindle is a heron from far away", "en"),
    ],
)
def test_the_language_of_a_text_goes_by_its_letters(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_labels_and_defaults_do_not_count_for_the_language() -> None:
    profile = {**UNKNOWN, "Name": "雾灯"}
    assert profile_text(profile) == "雾灯"
    assert detect_language(profile_text(profile)) == "zh"
