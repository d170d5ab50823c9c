"""Files in MindRecord, MindSpore's format of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_grpo.errors import DataError


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file in its order.

    Raises:
        DataError: the file is missing or broken.
    """
    from mindspore.mindrecord import FileReader

    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        reader = FileReader(str(path))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as MindRecord: {str(error).splitlines()[0]}") from None
    yield from reader.get_next()
    reader.close()


def write_records(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of arrays; an existing file is replaced."""
    from mindspore.mindrecord import FileWriter

    kinds = {name: np.asarray(value).dtype for name, value in rows[0].items()}
    schema = {name: {"type": "float32" if kind.kind == "f" else "int64", "shape": [-1]} for name, kind in kinds.items()}
    writer = FileWriter(file_name=str(path), shard_num=1, overwrite=True)
    writer.add_schema(schema, "rows of arrays")
    types = {name: np.float32 if entry["type"] == "float32" else np.int64 for name, entry in schema.items()}
    writer.write_raw_data(
        [{name: np.atleast_1d(np.asarray(row[name], types[name])) for name in schema} for row in rows]
    )
    writer.commit()
