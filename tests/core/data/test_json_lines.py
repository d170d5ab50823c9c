from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.data.rows import BadRow
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import DataError


def write(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return str(path)


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, b'{"a": 1}\n\n  \r\n{"a": 2}\r\n'))
    assert [rows[i] for i in range(len(rows))] == [{"a": 1}, {"a": 2}]
    assert rows.place(1).endswith("rows.jsonl:4")
    assert rows.bad == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": }', "invalid JSON: Expecting value at column 7"),
        (b"[1, 2]", "not an object but an array"),
        (b'"text"', "not an object but a string"),
        (b"3", "not an object but a number"),
        (b"true", "not an object but a boolean"),
        (b"null", "not an object but null"),
        (b'{"a": "\xff"}', "invalid UTF-8: byte 0xff at byte 8 of the line"),
        (b'{"a": 1', "invalid JSON: Expecting ',' delimiter at column 8"),
    ],
)
def test_a_bad_line_is_kept_with_its_number_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    rows = read_rows(write(tmp_path, b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n'))
    bad = rows[1]
    assert isinstance(bad, BadRow)
    assert bad.place.endswith("rows.jsonl:3")
    assert bad.reason == reason
    assert list(rows.bad) == [1]
    assert rows[2] == {"a": 2}


def test_deep_nesting_and_endless_numbers_are_bad_rows_not_crashes(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, b"[" * 200_000 + b'\n{"a": ' + b"9" * 5000 + b"}\n"))
    assert sorted(rows.bad) == [0, 1]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path, b'\xef\xbb\xbf{"a": 1}'))[0] == {"a": 1}


def test_only_newline_ends_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three"
    rows = read_rows(write(tmp_path, json.dumps({"a": text}, ensure_ascii=False).encode()))
    assert [len(rows), rows[0]] == [1, {"a": text}]


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    rows = read_rows(write(tmp_path_factory.mktemp("fuzz"), content))
    for index in range(len(rows)):
        assert isinstance(rows[index], BadRow) == (index in rows.bad)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*rwos\.jsonl' not found.*did you mean '.*rows\.jsonl'"):
        read_rows(str(Path(write(tmp_path, b"{}")).with_name("rwos.jsonl")))
