"""Data sources: the text or mapping under ``data.source`` becomes ``Rows``.

| source | rows |
|---|---|
| ``path/file.jsonl`` | one object per line; ``.json`` may also be one list of objects |
| ``path/file.csv``, ``.tsv`` | its rows, named by its first line; every value is text |
| ``path/file.parquet``, ``.arrow`` | its rows |
| ``path/folder`` | written by ``datasets``' save_to_disk, or a folder of data files; argument ``split`` |
| ``hub:NAME`` | a dataset of the Hugging Face hub; arguments ``split``, ``config`` |
| ``reasoning_gym:TASK`` | generated problems; arguments ``size``, ``seed`` and the task's own |
| ``pkg.module:function``, ``path/file.py:function`` | what the function returns; arguments are passed to it |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CUTOFF, DataError, did_you_mean_file, from_here
from .arrow import read_arrow, read_folder, read_hub, read_parquet
from .line_files import CsvRows, JsonLinesRows, read_json
from .reasoning_tasks import read_task
from .rows import BadRow, Rows, unknown
from .user_rows import read_function

__all__ = ["BadRow", "Rows", "read_rows", "source_folder", "source_name"]

FORMS = "FILE.jsonl, .json, .csv, .tsv, .parquet or .arrow, a datasets FOLDER, hub:NAME, reasoning_gym:TASK, pkg.module:function, path/file.py:function"
SCHEMES = ("hub", "reasoning_gym")
OPTIONS = ("config", "split")  # arguments of sources that are files or datasets
READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": JsonLinesRows,
    ".json": read_json,
    ".csv": CsvRows,
    ".tsv": CsvRows,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}


def read_rows(source: str | Mapping[str, Any]) -> Rows:
    """Open a source, written as text or as ``{name: TEXT, argument: value, ...}``.

    Raises:
        DataError: the source is unknown or unreadable, or does not take an argument.
    """
    name = source_name(source)
    arguments = {} if isinstance(source, str) else {key: value for key, value in source.items() if key != "name"}
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "reasoning_gym":
        return read_task(rest, arguments)
    if colon and scheme == "hub":
        return read_hub(rest, **_texts(name, arguments, *OPTIONS))
    path = Path(name).expanduser()
    if path.exists():
        return _read_path(name, path, arguments)
    if re.fullmatch(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*", name) and not _misspelt_scheme(scheme):
        return read_function(name, arguments)
    raise _not_found(name, path)


def source_name(source: str | Mapping[str, Any]) -> str:
    """Return the text of a source without its arguments; raises DataError if it has none."""
    name = source.get("name") if isinstance(source, Mapping) else source
    if not isinstance(name, str) or not name:
        raise DataError(
            f"data source {source!r} has no name; accepted: {FORMS}, or a mapping {{name: SOURCE, argument: value}}"
        )
    return name


def source_folder(source: str | Mapping[str, Any]) -> Path:
    """Return the folder that relative paths in the rows start from: that of the source's file, else the current one."""
    path = Path(source_name(source)).expanduser()
    if not path.exists() and path.name.partition(":")[0].endswith(".py"):
        path = path.with_name(path.name.partition(":")[0])
    if path.is_dir():
        return path
    return path.parent if path.is_file() else Path()


def _read_path(name: str, path: Path, arguments: Mapping[str, Any]) -> Rows:
    if path.is_dir():
        return read_folder(path, **_texts(name, arguments, "split"))
    _texts(name, arguments)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"data source {name!r} has the suffix {path.suffix!r}; accepted files: {', '.join(READERS)}")
    return reader(path)


def _texts(name: str, arguments: Mapping[str, Any], *accepted: str) -> dict[str, str]:
    for key, value in arguments.items():
        if key not in accepted:
            raise unknown(f"{name}: argument", key, accepted)
        if not isinstance(value, str):
            raise DataError(f"{name}: {key} is {value!r}, not text")
    return dict(arguments)


def _misspelt_scheme(scheme: str) -> bool:
    return scheme.replace("-", "_") in SCHEMES or bool(difflib.get_close_matches(scheme, SCHEMES, cutoff=0.8))


def _not_found(name: str, path: Path) -> DataError:
    scheme, colon, rest = name.partition(":")
    near = difflib.get_close_matches(scheme.replace("-", "_"), SCHEMES, n=1, cutoff=CUTOFF)
    if colon and near:
        return DataError(f"data source {name!r} is unknown (did you mean {near[0] + ':' + rest!r}?); accepted: {FORMS}")
    hint = did_you_mean_file(path)
    return DataError(
        f"data source {name!r} not found: no such file or folder{hint}{from_here(path)}; accepted: {FORMS}"
    )
