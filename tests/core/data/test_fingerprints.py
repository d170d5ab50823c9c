"""Every row enters the fingerprint of a data set: what changed between a run and its resumption is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data import fingerprint as fingerprints
from mindrlhf_grpo.data.fingerprint import RowSums, fingerprint, row_sum
from mindrlhf_grpo.data.mixture import read_sources
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer


def write(folder: Path, rows: list[int | str], name: str = "rows") -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"row {row}"}) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "difference"),
    [
        (list(range(40)), ""),
        ([*range(16), "x", *range(17, 40)], "1 row has changed: PATH:17"),
        ([*range(2), "x", "y", "z", *range(5, 39), "v"], "4 rows have changed: PATH:3, PATH:4, PATH:5 and 1 more"),
        ([*range(20), *range(21, 40)], "1 row was removed at PATH:21"),
        (list(range(38)), "2 rows were removed at the end"),
        (list(range(43)), "3 rows were added at the end"),
        ([*range(10), "new", *range(10, 40)], "1 row was added at PATH:11"),
        (["x", *range(1, 10), "new", *range(10, 40)], "1 row was added at PATH:1, and others have changed"),
    ],
)
def test_rows_that_changed_are_told_from_rows_that_went(tmp_path: Path, rows: list[int | str], difference: str) -> None:
    path = write(tmp_path, list(range(40)))
    saved = RowSums(read_sources(path)).packed
    write(tmp_path, rows)
    assert RowSums(read_sources(path)).difference(saved) == difference.replace("PATH", path)


def test_of_very_many_rows_a_block_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "SUMS", 16)
    path = write(tmp_path, list(range(40)))
    saved = RowSums(read_sources(path)).packed
    write(tmp_path, [*range(16), "x", *range(17, 40)])
    assert RowSums(read_sources(path)).difference(saved) == f"1 block of 3 rows has changed: {path}:16 to {path}:18"


def test_rows_of_several_sources_are_named_by_their_files(tmp_path: Path) -> None:
    setting: list[Any] = [write(tmp_path, list(range(5)), "a"), write(tmp_path, list(range(5)), "b")]
    saved = RowSums(read_sources(setting)).packed
    write(tmp_path, [0, 1, "x", 3, 4], "b")
    assert RowSums(read_sources(setting)).difference(saved) == f"1 row has changed: {setting[1]}:3"


def test_a_changed_row_among_many_stops_a_resumed_run(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    """Before, 16 rows entered the fingerprint, and a change of any other was not seen."""
    path = write(tmp_path, list(range(400)))
    config = DataConfig(source=path, chat_template="none")
    state = json.loads(json.dumps(PromptStream(config, plain_tokenizer, seed=0).state()))
    write(tmp_path, [*range(299), "changed", *range(300, 400)])
    with pytest.raises(
        DataError, match=r"cannot resume: the rows of \S+ are not those .*: 1 row has changed: \S+:300\."
    ):
        PromptStream(config, plain_tokenizer, seed=0).load_state(state)


def test_a_position_saved_by_version_0_2_is_read(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    path = write(tmp_path, list(range(40)))
    config = DataConfig(source=path, chat_template="none")
    stream = PromptStream(config, plain_tokenizer, seed=0)
    stream.take(11)
    state = {**stream.state(), "fingerprint": fingerprint(read_sources(path))}
    del state["sums"]
    resumed = PromptStream(config, plain_tokenizer, seed=0)
    resumed.load_state(state)
    assert [p.uid for p in resumed.take(5)] == [p.uid for p in stream.take(5)]
    write(tmp_path, [*range(39), "x"])
    with pytest.raises(DataError, match="has fingerprint"):
        PromptStream(config, plain_tokenizer, seed=0).load_state(state)


def test_other_line_ends_are_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    saved = RowSums(read_sources(str(path)))
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": 2}')
    assert RowSums(read_sources(str(path))).digest == saved.digest


def test_images_are_not_decoded_for_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from PIL import Image

    features = datasets.Features({"prompt": datasets.Value("string"), "image": datasets.Image()})
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "red")]
    made = datasets.Dataset.from_dict({"prompt": ["a"] * 3, "image": pictures}, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    rows = read_sources(str(tmp_path / "saved"))
    monkeypatch.setattr(Image, "open", None)
    first, second, third = RowSums(rows).sums.tolist()
    assert first == third != second


def test_rows_of_tables_have_the_sums_of_their_values(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"prompt": ["a", "b"], "answer": [1, None], "list": [[1], []]})
    made.save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "rows.parquet"))
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        rows = read_sources(str(path))
        assert RowSums(rows).sums.tolist() == [row_sum(rows[index]) for index in range(2)]
