"""Files of tokenised rows (``.npz`` or MindRecord, ids with masks), turned back into text.

The rest of the system starts from text. A prompt is accepted only if its text encodes to the same ids, so that training
sees the tokens in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, DataError
from ...tokenizers.tokenizer import Tokenizer

Record = Mapping[str, NDArray[Any]]
SUFFIXES = (".npz", ".mindrecord")


def read_token_file(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield place and arrays of each row: the first axis of ``.npz`` arrays, or the records of MindSpore's format.

    Raises:
        DataError: another suffix, a broken file, arrays of different lengths, or MindSpore missing for its own format.
    """
    if path.suffix == ".npz":
        yield from _read_npz(path)
        return
    if path.suffix != ".mindrecord":
        raise DataError(f"{path} is no token file; accepted: {', '.join(SUFFIXES)}")
    from ...backend import record_files

    try:
        records = record_files("mindspore")
    except BackendError as error:
        raise DataError(
            f"{path} is MindSpore's format ({error}); .npz with the same arrays is read everywhere"
        ) from None
    for number, record in enumerate(records.read_records(path)):
        yield f"{path}[{number}]", {name: np.asarray(value) for name, value in record.items()}


def write_token_file(path: Path, records: Iterable[Record]) -> int:
    """Write rows of equal shapes and return their number; ``.mindrecord`` needs MindSpore.

    Raises:
        DataError: no rows, or another suffix.
    """
    rows = list(records)
    if not rows or path.suffix not in SUFFIXES:
        raise DataError(f"{path}: {'no rows to write' if not rows else 'accepted: ' + ', '.join(SUFFIXES)}")
    if path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez_compressed(file, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
    else:
        from ...backend import record_files

        record_files("mindspore").write_records(path, rows)
    return len(rows)


def _read_npz(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from None
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(counts.values())) != 1:
        raise DataError(f"{path}: arrays have different numbers of rows: {counts}")
    for number in range(next(iter(counts.values()))):
        yield f"{path}[{number}]", {name: arrays[name][number] for name in counts}


class TokenText:
    """Turns ids back into text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.pad = tokenizer, tokenizer.pad_id
        self._special: dict[int, str] = {}

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self.tokenizer.decode([int(token) for token in ids])

    def exact(self, ids: Iterable[int]) -> str:
        """Return the text, special tokens written out, that encodes to the same ids.

        Raises:
            DataError: there is none: the ids come from another tokenizer.
        """
        tokens = [int(token) for token in ids]
        if any(not 0 <= token < self.tokenizer.vocab_size for token in tokens):
            raise DataError(f"id {max(tokens)} is not among the tokenizer's {self.tokenizer.vocab_size} tokens")
        text, plain = "", list[int]()
        for token in tokens:
            if (shown := self._shown(token)) is None:
                plain.append(token)
            else:
                text, plain = text + self.text(plain) + shown, []
        text += self.text(plain)
        if self.tokenizer.encode(text) != tokens:
            raise DataError("the text of these ids has other ids: they are another tokenizer's, or were cut")
        return text

    def _shown(self, token: int) -> str | None:
        """Return the spelling of a special token; None for a token of text."""
        if token not in self._special:
            self._special[token] = "" if self.tokenizer.decode([token]) else self.tokenizer.piece(token)
        return self._special[token] or None


def without_padding(record: Record, name: str, texts: TokenText, mask: str = "") -> list[int]:
    """Return the ids of an array without padding: by a mask, else by the padding ids at either end.

    Raises:
        DataError: there is no such array.
    """
    if name not in record:
        raise DataError(f"the token file has no {name!r}; it has {', '.join(record)}")
    ids = [int(token) for token in np.ravel(record[name])]
    if mask in record:
        return [token for token, real in zip(ids, np.ravel(record[mask]), strict=True) if real == 1]
    real = [place for place, token in enumerate(ids) if token != texts.pad]
    return ids[real[0] : real[-1] + 1] if real else []


def under_mask(record: Record, name: str, mask: str) -> list[int]:
    """Return the ids where the mask is exactly 1: in some files masks are themselves padded with padding ids."""
    if name not in record or mask not in record:
        return []
    return [int(token) for token, marked in zip(record[name], record[mask], strict=False) if marked == 1]


def before_mask(mask: NDArray[Any]) -> int:
    """Count the places before the first marked one; 0 without a mark."""
    marked = np.flatnonzero(np.ravel(mask) == 1)
    return int(marked[0]) if len(marked) else 0
