from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindrlhf_grpo.data.rows import BadRow, IndexedRows
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import DataError

ROWS = [{"prompt": f"question {i}", "answer": i, "tags": ["a", str(i)]} for i in range(5)]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("parquet") / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    folder = tmp_path_factory.mktemp("saved")
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(str(folder / "one"))
    datasets.DatasetDict({"train": table, "test": table.select([4, 0])}).save_to_disk(str(folder / "parts"))
    return folder


def test_parquet_rows(parquet: Path) -> None:
    rows = read_rows(str(parquet))
    assert [rows[i] for i in range(len(rows))] == ROWS
    assert rows.place(3) == f"{parquet}[3]"


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="no readable parquet file"):
        read_rows(str(path))


def test_saved_datasets_folder(saved: Path) -> None:
    rows = read_rows(str(saved / "one"))
    assert [rows[i] for i in range(len(rows))] == ROWS


def test_saved_splits(saved: Path) -> None:
    assert len(read_rows(str(saved / "parts"))) == 5
    test = read_rows({"name": str(saved / "parts"), "split": "test"})
    assert [test[0]["answer"], test[1]["answer"]] == [4, 0]
    assert test.place(1).endswith("parts/test[1]")
    with pytest.raises(DataError, match=r"split 'tset' is unknown \(did you mean 'test'\?\); accepted: test, train"):
        read_rows({"name": str(saved / "parts"), "split": "tset"})


def test_folder_of_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (folder / "test.jsonl").write_text('{"prompt": "c"}\n')
    assert read_rows(str(folder))[1] == {"prompt": "b"}
    assert read_rows({"name": str(folder), "split": "test"})[0] == {"prompt": "c"}
    assert len(read_rows({"name": str(folder), "split": "train[:1]"})) == 1


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded"):
        read_rows(str(tmp_path))


def test_hub_without_network_is_one_clear_error(tmp_path: Path) -> None:
    code = (
        "from mindrlhf_grpo.data.sources import read_rows\n"
        "from mindrlhf_grpo.errors import DataError\n"
        "try: read_rows({'name': 'hub:nobody/nothing', 'config': 'main', 'split': 'train'})\n"
        "except DataError as error: print(error)\n"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    assert "hub:nobody/nothing cannot be loaded (config 'main', split 'train')" in result.stdout
    assert "no network" in result.stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reasoning-gym:chain_sum", r"did you mean 'reasoning_gym:chain_sum'\?"),
        ("hbu:openai/gsm8k", r"did you mean 'hub:openai/gsm8k'\?"),
        ("nowhere/rows.jsonl", "not found"),
        ("", "has no name"),
        ({"path": "rows.jsonl"}, "has no name; accepted"),
        (
            {"name": "hub:a/b", "splt": "x"},
            r"argument 'splt' is unknown \(did you mean 'split'\?\); accepted: config, split",
        ),
        ({"name": "hub:a/b", "split": 3}, "split is 3, not text"),
    ],
)
def test_a_wrong_source_says_what_is_accepted(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(source)


def test_a_file_takes_no_arguments_and_needs_a_known_suffix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"argument 'split' is unknown; accepted: none"):
        read_rows({"name": str(path), "split": "train"})
    text = tmp_path / "rows.txt"
    text.write_text("a,b")
    with pytest.raises(DataError, match=r"suffix '\.txt'; accepted files: \.jsonl"):
        read_rows(str(text))


def test_a_row_whose_reading_fails_is_a_bad_row() -> None:
    rows = IndexedRows(name="made", size=2, read=lambda index: {"prompt": [1 // index]})
    assert rows[0] == BadRow("made[0]", "cannot be read: ZeroDivisionError: integer division or modulo by zero")
    assert rows[1] == {"prompt": [1]}
