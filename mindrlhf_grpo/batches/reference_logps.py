"""Stored log-probs of the reference policy, computed once for every row and kept in the run folder.

``RUN/reference/NAME.safetensors`` holds them one after the other, ``NAME.json`` the fingerprint of the model and the
rows. They are used again only with the model that made them: fingerprints are compared, and a mismatch is an error.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.examples import Example
from ..errors import CheckpointError
from ..json_lines import replace_file
from ..model_files.folder import read_header
from ..model_files.safetensors import read_tensor, write_tensors
from ..types import FloatArray

TENSOR = "reference_logps"


@dataclass(frozen=True, slots=True)
class StoredLogProbs:
    """Log-probs of each example's completions, one after the other ``[T]``, and a digest of its tokens, by row of the source."""

    rows: dict[int, FloatArray]
    digests: dict[int, int]

    def of(self, examples: Sequence[Example], shape: tuple[int, ...]) -> FloatArray:
        """``[N, T]`` of these examples' rows, 0 past each length.

        Raises:
            CheckpointError: a row that is not stored, or was tokenised otherwise.
        """
        logps = np.zeros(shape, np.float32)
        at = 0
        for example in examples:
            if self.digests.get(example.row) != digest(example):
                raise CheckpointError(
                    f"stored reference log-probs do not fit row {example.row} of the data: "
                    + ("it has other tokens now" if example.row in self.digests else "it has none")
                    + "; delete the folder reference/ of the run to compute them anew"
                )
            stored, lengths = self.rows[example.row], [len(completion) for completion in example.completions]
            for part in np.split(stored, np.cumsum(lengths)[:-1]):
                logps[at, : len(part)] = part
                at += 1
        return logps


def digest(example: Example) -> int:
    """Checksum of the tokens of an example and of the starts of its completions."""
    parts = [example.prompt, *(completion.ids for completion in example.completions)]
    lengths = np.asarray([len(part) for part in parts], np.int32)
    return zlib.crc32(np.concatenate([lengths, *parts]).astype(np.int32).tobytes())


def load(folder: Path, name: str, identity: dict[str, Any]) -> StoredLogProbs | None:
    """Read the log-probs stored under a name; None if there are none.

    Args:
        identity: the ``fingerprint`` of the model; must equal the stored one.

    Raises:
        CheckpointError: made by another checkpoint.
    """
    record = folder / f"{name}.json"
    if not record.exists():
        return None
    saved = json.loads(record.read_text())
    for key, now in identity.items():
        if saved["identity"].get(key) != now:
            raise CheckpointError(
                f"{record}: the reference log-probs were made with {key} {saved['identity'].get(key)!r}, this run has "
                f"{now!r}; use another run_dir, or delete {folder} to compute them anew"
            )
    path = folder / f"{name}.safetensors"
    values = read_tensor(path, read_header(path)[TENSOR])
    ends = np.cumsum(saved["lengths"])
    parts = np.split(values, ends[:-1]) if len(ends) else []
    rows = saved["rows"]
    return StoredLogProbs(dict(zip(rows, parts, strict=True)), dict(zip(rows, saved["digests"], strict=True)))


def save(folder: Path, name: str, identity: dict[str, Any], stored: StoredLogProbs) -> None:
    """Write the log-probs, then the record of their model: without the second file nothing counts as stored."""
    folder.mkdir(parents=True, exist_ok=True)
    values = [np.asarray(part, np.float32) for part in stored.rows.values()]
    write_tensors(folder / f"{name}.safetensors", {TENSOR: np.concatenate([*values, np.zeros(0, np.float32)])})
    record = {
        "identity": identity,
        "rows": list(stored.rows),
        "lengths": [len(part) for part in values],
        "digests": list(stored.digests.values()),
    }
    replace_file(folder / f"{name}.json", json.dumps(record).encode())


def compute(
    examples: Sequence[Example], step: int, logps: Callable[[Sequence[Example]], list[FloatArray]]
) -> StoredLogProbs:
    """Compute the log-probs of all examples, ``step`` examples at a time.

    Args:
        logps: returns for each of some examples its completions' log-probs one after the other, on every rank.
    """
    rows: dict[int, FloatArray] = {}
    for start in range(0, len(examples), step):
        part = examples[start : start + step]
        rows.update(zip([example.row for example in part], logps(part), strict=True))
    return StoredLogProbs(rows, {example.row: digest(example) for example in examples})
