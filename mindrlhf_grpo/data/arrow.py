"""Rows in Arrow tables: parquet files, ``datasets`` folders and hub datasets, read lazily row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from .rows import IndexedRows, Rows, unknown

BATCH = 1000  # rows that are read together for fingerprints
LARGE = 1 << 30  # bytes of a parquet file's values, from which on it is read from a memory-mapped copy


def read_parquet(path: Path) -> Rows:
    """Open a parquet file; raises DataError if it is broken.

    Parquet is compressed, so its values are in memory. A large file is read through a copy that ``datasets`` keeps in
    its cache as Arrow, which is mapped, not loaded.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            large = sum(group.total_byte_size for group in groups) > LARGE
        if large:
            import datasets

            return _rows(str(path), datasets.Dataset.from_parquet(str(path)), None)
        return _table(path, pq.read_table(path, memory_map=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable parquet file: {error}") from error


def read_arrow(path: Path) -> Rows:
    """Open an Arrow file or stream (as ``datasets`` writes them), mapped into memory; raises DataError if it is broken."""
    import pyarrow as pa

    try:
        mapped = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:
            mapped.seek(0)
            table = pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Arrow file: {error}") from error
    return _table(path, table)


def _table(path: Path, table: Any) -> Rows:
    def read(index: int) -> dict[str, Any]:
        row: dict[str, Any] = table.slice(index, 1).to_pylist()[0]
        return row

    def part(start: int, stop: int) -> Any:
        return table.slice(start, stop - start)

    return IndexedRows(name=str(path), size=table.num_rows, read=read, stored=partial(_undecoded, part, table.num_rows))


def read_folder(path: Path, *, split: str | None = None) -> Rows:
    """Open a folder that ``save_to_disk`` wrote, or a folder of data files.

    Args:
        path: the folder.
        split: name of the split; required only if there are several and none is called ``train``. A folder of data
            files also accepts slices as ``datasets`` writes them (``train[:90%]``).

    Raises:
        DataError: nothing there can be read, or the split does not exist.
    """
    if not any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
        return _load(str(path), None, split, label=str(path))
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises many kinds on damaged folders
        raise DataError(f"datasets folder {path} is broken: {error}") from error
    return _rows(str(path), loaded, split)


def read_hub(name: str, *, config: str | None = None, split: str | None = None) -> Rows:
    """Open a dataset of the Hugging Face hub (``hub:NAME``), from its cache without a network.

    Raises:
        DataError: the dataset, config or split is unknown, or there is no network and it is not in the cache.
    """
    return _load(name, config, split, label=f"hub:{name}")


def _load(name: str, config: str | None, split: str | None, *, label: str) -> Rows:
    import datasets

    sliced = split if split is not None and re.search(r"[\[+]", split) else None
    try:
        loaded = datasets.load_dataset(name, config, split=sliced)
    except Exception as error:  # datasets and its network layer raise dozens of kinds
        reason = " ".join(str(error).split())
        offline = "; there is no network or it is turned off" if _is_offline(error) else ""
        raise DataError(
            f"{label} cannot be loaded (config {config!r}, split {split!r}){offline}: {type(error).__name__}: {reason}"
        ) from error
    return _rows(label, loaded, None if sliced else split)


def _is_offline(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OfflineModeIsEnabled", "ConnectionError", "LocalEntryNotFoundError", "ConnectError"})


def _rows(label: str, loaded: Any, split: str | None) -> Rows:
    parts = loaded if isinstance(loaded, dict) else None
    if parts is not None:
        chosen = split or (next(iter(parts)) if len(parts) == 1 else "train")
        if chosen not in parts:
            raise unknown(f"{label}: split", chosen, parts)
        loaded, label = parts[chosen], f"{label}/{chosen}"
    elif split is not None and str(loaded.split) != split:
        raise unknown(f"{label}: split", split, [str(loaded.split)] if loaded.split else [])
    tables = loaded.with_format("arrow")  # images stay the bytes that they are on disk

    def part(start: int, stop: int) -> Any:
        return tables[start:stop]

    return IndexedRows(
        name=label,
        size=len(loaded),
        read=lambda index: dict(loaded[index]),
        stored=partial(_undecoded, part, len(loaded)),
    )


def _undecoded(part: Callable[[int, int], Any], size: int) -> Iterator[dict[str, Any]]:
    """Yield all rows as Arrow stores them; ``part`` returns a table of some."""
    for start in range(0, size, BATCH):
        yield from part(start, min(size, start + BATCH)).to_pylist()
