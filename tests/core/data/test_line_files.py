"""Files read by the row: CSV as its writer meant it, lists in .json, and files that no memory holds."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.data.rows import BadRow
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import DataError
from tests.support.repository import ROOT
from tests.support.tiny import environment

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=12)


def test_a_csv_file_has_text_under_the_names_of_its_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffprompt,answer\r\n"2+2, now",4\r\n\r\n"two\nlines ""quoted""",ja 数\r\n'.encode())
    rows = read_rows(str(path))
    assert list(rows) == [{"prompt": "2+2, now", "answer": "4"}, {"prompt": 'two\nlines "quoted"', "answer": "ja 数"}]
    assert [rows.place(index) for index in range(2)] == [f"{path}:2", f"{path}:4"]


def test_a_tsv_file_is_divided_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("prompt\tanswer\n2,2\t4\n")
    assert list(read_rows(str(path))) == [{"prompt": "2,2", "answer": "4"}]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_any_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str]]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *table])
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    rows = read_rows(str(path))
    order = [*reversed(range(len(rows))), *range(len(rows))]
    assert [rows[index] for index in order] == [dict(zip("ab", table[index], strict=True)) for index in order]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: its first line names the columns"),
        (b"a,a\n1,2\n", "the header must name each column once; it has 'a', 'a'"),
        (b"a,\n1,2\n", "must name each column once"),
        (b"a,b\r1,2\r", "rows.csv:1: no CSV: new-line character seen in unquoted field"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(path))


def test_a_row_of_another_length_or_encoding_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n1\n1,2,3\n\xff,2\n1,2\n")
    rows = read_rows(str(path))
    found = [row.reason if isinstance(row, BadRow) else row for row in (rows[index] for index in range(4))]
    assert found[:2] == ["1 values for 2 columns", "3 values for 2 columns"]
    assert found[2].startswith("no CSV in UTF-8")
    assert found[3] == {"a": "1", "b": "2"}


def test_a_json_file_may_be_one_list(tmp_path: Path) -> None:
    """Alpaca and ShareGPT data are published so."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "a"}, 3, {"instruction": "b"}], indent=1))
    rows = read_rows(str(path))
    assert [len(rows), rows[2], rows.place(2)] == [3, {"instruction": "b"}, f"{path}[2]"]
    assert rows[1] == BadRow(f"{path}[1]", "not an object but int")
    path.write_text("[{]")
    with pytest.raises(DataError, match="begins like a list of rows, but is no JSON"):
        read_rows(str(path))


def test_arrow_files_are_read_in_both_layouts(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"prompt": ["a", "b"], "answer": [1, 2]})
    for name, writer in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        path = tmp_path / f"{name}.arrow"
        with writer(str(path), table.schema) as out:
            out.write_table(table)
        assert list(read_rows(str(path))) == [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}]
    (tmp_path / "broken.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match="is no readable Arrow file"):
        read_rows(str(tmp_path / "broken.arrow"))


def test_a_large_parquet_file_is_read_through_a_mapped_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mindrlhf_grpo.data import arrow

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"], "answer": [1, 2]}), path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    in_memory = list(read_rows(str(path)))
    monkeypatch.setattr(arrow, "LARGE", 0)
    assert list(read_rows(str(path))) == in_memory == [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2}]


PROGRAM = """
import resource, sys
from mindrlhf_grpo.data.mixture import read_sources
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = read_sources(sys.argv[1])
total = sum(len(rows[int(index)]["prompt"]) for index in rows.order(1, 0, shuffle=True))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(rows), total, after - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_file_is_shuffled_without_being_held_in_memory(tmp_path: Path) -> None:
    """128 MiB of rows, read whole in shuffled order, in a process that grows by less than a quarter of them."""
    path = tmp_path / "rows.jsonl"
    line = json.dumps({"prompt": "x" * (1 << 20)}).encode() + b"\n"
    with path.open("wb") as file:
        file.writelines([line] * 128)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment(),
    )
    path.unlink()
    rows, total, grown = map(int, done.stdout.split())
    assert (rows, total) == (128, 128 << 20)
    assert grown < 32 << 10, "kB"
