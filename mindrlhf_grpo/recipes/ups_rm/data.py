"""PKU-SafeRLHF as prompts for training: from the files of its subsets to ``train`` and ``val`` with verl's columns.

Only the prompt of a line is required; labels are copied, and are null where a line lacks them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.line_files import JsonLinesRows
from ...data.prompts import read_column
from ...data.rows import BadRow, PlacedRow
from ...data.sources import read_rows
from ...errors import DataError, did_you_mean
from ...json_lines import to_json

LOG = logging.getLogger("mindrlhf_grpo.recipes")
SUBSETS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")
LABELS = {
    "is_response_0_safe": bool,
    "is_response_1_safe": bool,
    "safer_response_id": int,
    "better_response_id": int,
}
COLUMNS = ("data_source", "prompt", "ability", "reward_model", "extra_info")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Settings for turning the files into rows.

    Attributes:
        subsets: None: all, or the files of a folder without subsets.
        train_ratio: share of the lines, from the first on, to train on where no subset has a test file.
        dedup_prompts: keep only the first line of each prompt of a split; a prompt comes in several pairs.
        skip_bad: leave out and count unusable lines, instead of stopping at the first.
    """

    subsets: Sequence[str] | None = None
    train_ratio: float = 0.9
    shuffle: bool = False
    seed: int = 42
    dedup_prompts: bool = False
    skip_bad: bool = False


def preprocess(source: Path, out: Path, settings: Preprocessing, file_format: str = "parquet") -> dict[str, Any]:
    """Write ``train`` and ``val`` into ``out``; returns counts.

    Raises:
        DataError: an unknown subset, a bad line that is not to be skipped, or a split without rows.
    """
    for name in settings.subsets or ():
        if name not in SUBSETS:
            raise DataError(f"subset {name!r} is unknown{did_you_mean(name, SUBSETS)}; accepted: {', '.join(SUBSETS)}")
    if not 0 < settings.train_ratio < 1:
        raise DataError(f"train_ratio is {settings.train_ratio}; accepted: between 0 and 1")
    counts: dict[str, Any] = {"skipped": 0, "duplicates": 0, "bad_labels": {}, "missing": []}
    train = read_lines(source, "train", settings, counts)
    held_out = read_lines(source, "test", settings, counts)
    if not train:
        places = ["data/SUBSET/train.jsonl", *([] if settings.subsets else ["train.jsonl", "data/train.jsonl"])]
        raise DataError(
            f"{source}: no rows to train on; looked for {', '.join(places)}"
            f" (SUBSET: {', '.join(settings.subsets or SUBSETS)})"
        )
    if not held_out:  # no official test file: split before anything is shuffled
        cut = int(len(train) * settings.train_ratio)
        train, held_out = train[:cut], train[cut:]
    out.mkdir(parents=True, exist_ok=True)
    for name, split, lines in (("train", "train", train), ("val", "test", held_out)):
        rows = to_rows(lines, split, settings, counts)
        if not rows:
            raise DataError(f"{source}: {name} has no rows; it needs more lines, or another train_ratio")
        write_rows(out / f"{name}.{file_format}", rows)
        counts[name] = len(rows)
    return counts


def files_of(source: Path, split: str, settings: Preprocessing, counts: dict[str, Any]) -> list[Path]:
    """Return the files of a split: one of each subset, or that of a folder without subsets (the 10K and 30K sets).

    A subset without the file is skipped with a warning.
    """
    paths = {subset: source / "data" / subset / f"{split}.jsonl" for subset in settings.subsets or SUBSETS}
    found = [path for path in paths.values() if path.is_file()]
    whole = [path for path in (source / f"{split}.jsonl", source / "data" / f"{split}.jsonl") if path.is_file()]
    if not found and whole and settings.subsets is None:
        return whole[:1]
    for subset, path in paths.items():
        if path not in found:
            LOG.warning("%s is not there: subset %s has no %s lines", path, subset, split)
            counts["missing"].append(f"{subset}/{split}")
    return found


def read_lines(source: Path, split: str, settings: Preprocessing, counts: dict[str, Any]) -> list[Row]:
    """Return the usable lines of a split, file after file."""
    usable: list[Row] = []  # numbered as they come, before anything is split, shuffled or left out
    for path in files_of(source, split, settings, counts):
        lines = JsonLinesRows(path)
        for number in range(len(lines)):
            line = check_line(lines[number], lines.place(number))
            if not isinstance(line, BadRow):
                usable.append({**read_labels(line, lines.place(number), counts), "index": len(usable)})
            elif settings.skip_bad:
                counts["skipped"] += 1
                LOG.warning("skipped %s", line)
            else:
                raise DataError(f"{line}; --bad-rows skip goes on without it")
    return usable


def read_labels(line: Row, place: str, counts: dict[str, Any]) -> Row:
    """Return a line with its labels: null for an absent one, and for one of another type, which is counted and said."""
    labels = {name: line.get(name) for name in LABELS}
    for name, kind in LABELS.items():
        if labels[name] is not None and type(labels[name]) is not kind:
            if name not in counts["bad_labels"]:
                accepted = "true or false" if kind is bool else "a whole number"
                LOG.warning("%s: %s is %r, not %s; it becomes null", place, name, labels[name], accepted)
            counts["bad_labels"][name] = counts["bad_labels"].get(name, 0) + 1
            labels[name] = None
    return {**line, **labels}


def check_line(line: Row | BadRow, place: str) -> Row | BadRow:
    """Return a line whose prompt is text, or a bad row with the reason."""
    if isinstance(line, BadRow):
        return line
    try:
        prompt = read_column(line, "prompt")
    except DataError as error:
        return BadRow(place, str(error))
    return line if isinstance(prompt, str) else BadRow(place, "the prompt is a list, not text")


def to_rows(lines: Iterable[Row], split: str, settings: Preprocessing, counts: dict[str, Any]) -> list[Row]:
    """Return lines as rows with all of verl's columns."""
    rows: list[Row] = []
    seen: set[str] = set()
    for line in lines:
        if settings.dedup_prompts and line["prompt"] in seen:
            counts["duplicates"] += 1
            continue
        seen.add(line["prompt"])
        labels = {name: line[name] for name in LABELS}
        rows.append(
            {
                "data_source": "PKU-SafeRLHF",
                "prompt": [{"role": "user", "content": line["prompt"]}],
                "ability": "safety",
                "reward_model": {"style": "model", "ground_truth": None},
                "extra_info": {"split": split, "index": line["index"], **labels},
            }
        )
    if settings.shuffle:
        return [rows[i] for i in np.random.default_rng(settings.seed).permutation(len(rows))]
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as parquet or JSON lines, by the suffix; column types do not depend on which labels are present."""
    if path.suffix == ".jsonl":
        path.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {bool: pa.bool_(), int: pa.int64()}
    labels = [(name, kinds[kind]) for name, kind in LABELS.items()]
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64()), *labels])),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def rows(files: str | Sequence[str], most: int = -1, seed: int | None = None) -> Iterator[PlacedRow | BadRow]:
    """Yield the rows of one or several files, nested arrays as lists (a ``data.source`` function).

    Args:
        most: number of rows to take; -1: all.
        seed: of the draw of those rows; None: the first ones.
    """
    written = [read_rows(file) for file in ([files] if isinstance(files, str) else files)]
    places = [(source, index) for source in written for index in range(len(source))]
    if 0 < most < len(places):
        drawn = range(most) if seed is None else np.random.default_rng(seed).choice(len(places), most, replace=False)
        places = [places[number] for number in drawn]
    for source, index in places:
        row = source[index]
        if isinstance(row, BadRow):
            yield row
        else:
            yield PlacedRow(source.place(index), {name: plain(value) for name, value in row.items()})


def plain(value: Any) -> Any:
    """Return a value with arrays at any depth as lists; other readers of parquet return arrays."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_data(files: Sequence[str]) -> dict[str, Any]:
    """Return counts of each prepared file, and its first prompt.

    Raises:
        DataError: a missing column, a prompt that is not a list of messages, or no rows.
    """
    report: dict[str, Any] = {}
    for file in files:
        count, labelled, first = 0, 0, ""
        for row in rows(file):
            if isinstance(row, BadRow):
                raise DataError(str(row))
            place = row.place
            missing = [name for name in COLUMNS if name not in row]
            if missing:
                raise DataError(f"{place} has no {', '.join(missing)}; it has {', '.join(row)}")
            try:
                messages = read_column(row, "prompt")
            except DataError as error:
                raise DataError(f"{place}: {error}") from None
            if isinstance(messages, str) or messages[-1]["role"] != "user":
                raise DataError(f"{place}: the prompt must be a list of messages that ends with the user's")
            first = first or messages[-1]["content"]
            labelled += (row["extra_info"] or {}).get("is_response_0_safe") is not None
            count += 1
        if not count:
            raise DataError(f"{file} has no rows")
        report[file] = {"rows": count, "labelled": labelled, "first_prompt": first}
    return report
