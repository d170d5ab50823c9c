"""PKU-SafeRLHF to prompts: columns, counts, splits, order, and the errors of unusable lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.recipes.ups_rm.data import COLUMNS, SUBSETS, Preprocessing, check_data, plain, preprocess, rows
from mindrlhf_grpo.recipes.ups_rm.reward_model import labelled
from tests.support.recipes import ups_rm_files

LABELS = {"is_response_0_safe": True, "is_response_1_safe": False, "safer_response_id": 0, "better_response_id": 1}


def write(folder: Path, sizes: dict[str, tuple[int, int]], **further: Any) -> Path:
    """Subset -> lines for training and for testing; 0: no file."""
    for subset, counts in sizes.items():
        for split, count in zip(("train", "test"), counts, strict=True):
            path = folder / "data" / subset / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            if count:
                lines = [{"prompt": f"{subset} {split} {i}", **LABELS, **further} for i in range(count)]
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def prompts(path: Path) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows(str(path))]


@pytest.mark.row("ups_rm", "Preprocess", backend="none")
def test_three_subsets_become_train_and_val_with_verls_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", dict.fromkeys(SUBSETS, (4, 2)))
    counts = preprocess(source, tmp_path / "out", Preprocessing())
    assert counts == {"skipped": 0, "duplicates": 0, "bad_labels": {}, "missing": [], "train": 12, "val": 6}
    (first, *_, last) = read_rows(str(tmp_path / "out" / "val.parquet"))
    assert tuple(first) == COLUMNS
    assert first == {
        "data_source": "PKU-SafeRLHF", "prompt": [{"role": "user", "content": "Alpaca-7B test 0"}], "ability": "safety",
        "reward_model": {"style": "model", "ground_truth": None},
        "extra_info": {"split": "test", "index": 0, **LABELS},
    }  # fmt: skip
    assert last["extra_info"]["index"] == 5
    assert prompts(tmp_path / "out" / "train.parquet")[4] == "Alpaca2-7B train 0"


@pytest.mark.row("ups_rm", "Preprocess", backend="none")
def test_without_a_test_file_the_last_tenth_is_held_out_before_anything_is_shuffled(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", {"Alpaca-7B": (20, 0)})
    settings = Preprocessing(subsets=["Alpaca-7B"], shuffle=True)
    assert preprocess(source, tmp_path / "out", settings)["train"] == 18
    assert sorted(prompts(tmp_path / "out" / "val.parquet")) == ["Alpaca-7B train 18", "Alpaca-7B train 19"]
    quarter = Preprocessing(subsets=["Alpaca-7B"], train_ratio=0.25)
    assert preprocess(source, tmp_path / "out", quarter)["val"] == 15


@pytest.mark.row("ups_rm", "Preprocess", backend="none")
def test_the_order_depends_on_the_seed_alone_and_numbers_are_given_before_it(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", {"Alpaca-7B": (10, 1)})
    orders = []
    for seed in (42, 42, 7):
        preprocess(source, tmp_path / "out", Preprocessing(subsets=["Alpaca-7B"], shuffle=True, seed=seed))
        found = list(rows(str(tmp_path / "out" / "train.parquet")))
        assert all(row["prompt"][0]["content"].endswith(f" {row['extra_info']['index']}") for row in found)
        orders.append([row["extra_info"]["index"] for row in found])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(10))
    assert sorted(orders[0]) == list(range(10))


def test_a_missing_subset_is_said_and_no_rows_at_all_are_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "raw", {"Alpaca-7B": (4, 2)})
    with caplog.at_level("WARNING"):
        counts = preprocess(source, tmp_path / "out", Preprocessing())
    assert counts["missing"] == ["Alpaca2-7B/train", "Alpaca3-8B/train", "Alpaca2-7B/test", "Alpaca3-8B/test"]
    assert "subset Alpaca2-7B has no train lines" in caplog.text
    with pytest.raises(
        DataError, match=r"no rows to train on; looked for data/SUBSET/train.jsonl \(SUBSET: Alpaca3-8B\)"
    ):
        preprocess(source, tmp_path / "out", Preprocessing(subsets=["Alpaca3-8B"]))
    with pytest.raises(DataError, match=r"subset 'Alpaca-8B' is unknown \(did you mean 'Alpaca3-8B'\?\)"):
        preprocess(source, tmp_path / "out", Preprocessing(subsets=["Alpaca-8B"]))
    one = write(tmp_path / "one", {"Alpaca-7B": (1, 0)})
    with pytest.raises(DataError, match="train has no rows; it needs more lines"):
        preprocess(one, tmp_path / "out", Preprocessing())


def test_unusable_lines_stop_with_their_place_or_are_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", {"Alpaca-7B": (3, 1)})
    path = source / "data" / "Alpaca-7B" / "train.jsonl"
    path.write_text(path.read_text() + '{"prompt": 3}\n{"question": "x"}\nnot json\n{"prompt": " "}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:4: the prompt is int, not text.*--bad-rows skip"):
        preprocess(source, tmp_path / "out", Preprocessing(subsets=["Alpaca-7B"]))
    counts = preprocess(source, tmp_path / "out", Preprocessing(subsets=["Alpaca-7B"], skip_bad=True))
    assert (counts["train"], counts["skipped"]) == (3, 4)


def test_repeated_prompts_are_kept_once_where_asked_and_odd_labels_are_null(tmp_path: Path) -> None:
    source = write(
        tmp_path / "raw", {"Alpaca-7B": (3, 1)}, prompt="again", is_response_0_safe="yes", safer_response_id=None
    )
    kept = preprocess(source, tmp_path / "a", Preprocessing(subsets=["Alpaca-7B"]), "jsonl")
    once = preprocess(source, tmp_path / "b", Preprocessing(subsets=["Alpaca-7B"], dedup_prompts=True), "jsonl")
    assert (kept["train"], once["train"], once["duplicates"]) == (3, 1, 2)
    assert kept["bad_labels"] == {"is_response_0_safe": 4}
    (row,) = rows(str(tmp_path / "b" / "train.jsonl"))
    assert row["extra_info"] == {
        "split": "train", "index": 0, "is_response_0_safe": None, "is_response_1_safe": False,
        "safer_response_id": None, "better_response_id": 1,
    }  # fmt: skip


def test_rows_of_several_files_follow_each_other_and_arrays_become_lists(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", {"Alpaca-7B": (2, 1)})
    preprocess(source, tmp_path, Preprocessing(subsets=["Alpaca-7B"]))
    both = [str(tmp_path / "train.parquet"), str(tmp_path / "val.parquet")]
    assert len(list(rows(both))) == 3
    nested = np.array([{"role": "user", "content": "x", "ids": np.arange(2)}], dtype=object)
    assert plain({"prompt": nested}) == {"prompt": [{"role": "user", "content": "x", "ids": [0, 1]}]}


@pytest.mark.row("ups_rm", "Check scripts", backend="none")
def test_prepared_files_are_checked(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ups_rm_files.run("preprocess", "--local_dataset_path", raw / "Data" / "PKU-SafeRLHF", "--local_save_dir", tmp_path)
    ups_rm_files.run("check-data", tmp_path / "train.parquet", tmp_path / "val.parquet")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report[f"{tmp_path}/train.parquet"]["rows"] == 600
    assert report[f"{tmp_path}/val.parquet"]["labelled"] == 24
    assert report[f"{tmp_path}/val.parquet"]["first_prompt"].startswith("how do you make a ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no rows"),
        (["{"], "invalid JSON"),
        (['{"prompt": "x"}'], r"rows\.jsonl:1 has no data_source, ability, reward_model, extra_info; it has prompt"),
        ([{"prompt": "x"}], "must be a list of messages that ends with the user's"),
        ([{"prompt": [{"role": "assistant", "content": "x"}]}], "must be a list of messages that ends with the user's"),
        ([{"prompt": [{"role": "user"}]}], "message 0 has no 'content'"),
    ],
)
def test_what_is_wrong_with_a_prepared_file_is_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    others = {"data_source": "x", "ability": "safety", "reward_model": {}, "extra_info": None}
    texts = [line if isinstance(line, str) else json.dumps({**others, **line}) for line in lines]
    (tmp_path / "rows.jsonl").write_text("".join(text + "\n" for text in texts))
    with pytest.raises(DataError, match=message):
        check_data([str(tmp_path / "rows.jsonl")])


def test_subsets_follow_their_option_as_in_the_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finding F15: ``--subsets A B`` was an unexpected extra argument."""
    source = write(tmp_path / "raw", dict.fromkeys(SUBSETS, (4, 2)))
    words = ("preprocess", "--local_dataset_path", source, "--local_save_dir", tmp_path / "out")
    ups_rm_files.run(*words, "--subsets", "Alpaca-7B", "Alpaca3-8B", "--shuffle")
    assert json.loads(capsys.readouterr().out)["train"] == 8
    assert {prompt.split()[0] for prompt in prompts(tmp_path / "out" / "train.parquet")} == {"Alpaca-7B", "Alpaca3-8B"}
    ups_rm_files.run(*words, "--subsets", "Alpaca-7B", "--subsets", "Alpaca2-7B")
    assert json.loads(capsys.readouterr().out)["train"] == 8
    with pytest.raises(ConfigError, match="'Alpaca-7B' is no option; subsets are named as --subsets A B"):
        ups_rm_files.run(*words, "Alpaca-7B")


@pytest.mark.parametrize("place", ["", "data"])
def test_rows_of_a_folder_without_subsets_are_found(tmp_path: Path, place: str) -> None:
    """Finding F15: the 10K and 30K sets have their files at the root."""
    write(tmp_path / "raw", {"Alpaca-7B": (5, 2)})
    (tmp_path / "flat" / place).mkdir(parents=True)
    for split in ("train", "test"):
        text = (tmp_path / "raw" / "data" / "Alpaca-7B" / f"{split}.jsonl").read_text()
        (tmp_path / "flat" / place / f"{split}.jsonl").write_text(text)
    counts = preprocess(tmp_path / "flat", tmp_path / "out", Preprocessing())
    assert (counts["train"], counts["val"], counts["missing"]) == (5, 2, [])
    with pytest.raises(DataError, match=r"looked for data/SUBSET/train.jsonl"):
        preprocess(tmp_path / "flat", tmp_path / "out", Preprocessing(subsets=["Alpaca-7B"]))
    with pytest.raises(DataError, match=r"looked for data/SUBSET/train.jsonl, train.jsonl, data/train.jsonl"):
        preprocess(tmp_path / "nothing", tmp_path / "out", Preprocessing())


def test_labels_of_another_type_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Finding F29: they became null in silence."""
    source = write(tmp_path / "raw", {"Alpaca-7B": (3, 1)}, is_response_0_safe="yes", better_response_id=True)
    with caplog.at_level("WARNING"):
        counts = preprocess(source, tmp_path / "out", Preprocessing(subsets=["Alpaca-7B"]))
    assert counts["bad_labels"] == {"is_response_0_safe": 4, "better_response_id": 4}
    assert "train.jsonl:1: is_response_0_safe is 'yes', not true or false; it becomes null" in caplog.text
    assert "train.jsonl:2" not in caplog.text


def test_responses_without_a_label_are_counted_and_odd_labels_stop_the_head(tmp_path: Path) -> None:
    """Finding F29: train-head left rows out without a count."""
    line = {"prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": True, "is_response_1_safe": None}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    found = labelled([str(tmp_path / "pairs.jsonl")])
    assert (found.examples, found.unlabelled) == ([("p", "a", 0)], 1)
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps(line) + "\n" + json.dumps({**line, "is_response_0_safe": 1}) + "\n"
    )
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: is_response_0_safe is 1; accepted: true, false, or null"):
        labelled([str(tmp_path / "pairs.jsonl")])


def test_a_row_that_fails_after_it_was_read_is_named_by_file_and_line(tmp_path: Path) -> None:
    """Finding F24: it was ``mindrlhf_grpo.recipes.ups_rm.data:rows[2]``."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n{"prompt": "c"}\n')
    source = read_rows({"name": "mindrlhf_grpo.recipes.ups_rm.data:rows", "files": str(path)})
    assert [source.place(index) for index in range(3)] == [f"{path}:1", f"{path}:3", f"{path}:4"]
