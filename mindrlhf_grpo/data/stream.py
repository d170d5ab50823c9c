"""Streams of prompts or examples: rows in a seeded, endless order, resumable to the row, the same on every rank.

The order of an epoch depends on (seed, epoch) alone, so a state of a few numbers continues it exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..config.run import DataConfig
from ..errors import DataError
from ..tokenizers.tokenizer import Tokenizer
from ..types import Prompt
from .image_prompts import ImagePrompts
from .prompts import encode_row
from .rows import BadRow, Rows
from .sources import read_rows, source_folder, source_name

T = TypeVar("T")
Drawn = TypeVar("Drawn")
SPECIAL_TEXT = "special_text"
SAMPLED = 16  # rows that enter the fingerprint of the data, besides their number


class RowSettings(Protocol):
    """The configuration of a stream: the source, and the treatment of rows that cannot be used."""

    @property
    def source(self) -> str | dict[str, Any]: ...
    @property
    def shuffle(self) -> bool: ...
    @property
    def bad_rows(self) -> Literal["stop", "skip"]: ...
    @property
    def overlong(self) -> Literal["error", "drop", "truncate"]: ...


class RowStream(Generic[Drawn]):
    """The encoded rows of one source, epoch after epoch; rows are tokenised when drawn.

    Attributes:
        counts: draws so far that were ``dropped`` (over-long), ``truncated``, or ``skipped`` (bad row); once there is
            one, also those of which a message has ``special_text`` (a special token that is read as text).
        noun: the name of one draw, for messages.
    """

    noun = "row"

    def __init__(self, config: RowSettings, *, seed: int) -> None:
        """Raises DataError on an unreadable or empty source, and on a bad line where ``bad_rows`` is ``stop``."""
        self._config = config
        self._seed = seed
        self._name = source_name(config.source)
        self._rows: Rows = self.open_rows(config)
        if not len(self._rows):
            raise DataError(f"data source {self._name} has no rows")
        if self._rows.bad and config.bad_rows == "stop":
            raise _stopped(next(iter(self._rows.bad.values())), f" ({len(self._rows.bad)} such rows)")
        self.counts = {"dropped": 0, "truncated": 0, "skipped": 0}
        self._epoch = 0
        self._position = 0  # draws of this epoch
        self._usable = 0  # usable draws of this epoch
        self._last_rejection = ""  # why the last row was left out, for the message when none remains
        self._order = self._order_of(0)

    def __len__(self) -> int:
        return len(self._rows)

    def open_rows(self, config: RowSettings) -> Rows:
        """Open the source; raises DataError if it cannot be read."""
        return read_rows(config.source)

    def encode(self, content: Mapping[str, Any], *, row: int, uid: int) -> Drawn | None:
        """Encode a row; None if it is left out, which ``accept_overlong`` has counted.

        Raises:
            DataError: the row cannot be used; the text does not have its place.
            StoppedByRow: an over-long row ends the run.
        """
        raise NotImplementedError

    def take(self, n: int) -> list[Drawn]:
        """Return the next ``n`` usable draws; the portions in which they are taken do not matter.

        Raises:
            DataError: a bad or over-long row stops the run, or an epoch has no usable row.
        """
        taken: list[Drawn] = []
        while len(taken) < n:
            if self._position == len(self._order):
                self._next_epoch()
            row = int(self._order[self._position])
            drawn = self._draw(row, self._epoch)
            self._position += 1
            if drawn is not None:
                self._usable += 1
                taken.append(drawn)
        return taken

    @property
    def epoch(self) -> float:
        """Passes over the rows so far, those that were left out included."""
        return self._epoch + self._position / max(1, len(self._order))

    def all(self) -> list[Drawn]:
        """Return every usable row once, in the source's order (held-out rows); the position of ``take`` stays."""
        drawn = [self._draw(row, 0) for row in range(len(self._rows))]
        usable = [draw for draw in drawn if draw is not None]
        if not usable:
            raise self._nothing_left()
        return usable

    def state(self) -> dict[str, Any]:
        """Return the state from which ``load_state`` continues with the next row, as plain JSON."""
        position = {"epoch": self._epoch, "position": self._position, "kept": self._usable}
        return {**position, "counts": dict(self.counts), **self._identity()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            DataError: the state is incomplete, or of another source, other rows, another seed or order.
        """
        expected = self.state()
        missing = sorted(set(expected) - set(state))
        if missing:
            raise DataError(f"saved data position lacks {', '.join(missing)}")
        for key, now in self._identity().items():
            if state[key] != now:
                raise DataError(
                    f"cannot resume: data source {self._name} has {key} {now!r}, the saved position {state[key]!r}"
                )
        self._epoch, self._position, self._usable = (int(state[key]) for key in ("epoch", "position", "kept"))
        if self._epoch < 0 or not 0 <= self._position <= len(self._rows):
            raise DataError(
                f"saved data position {self._position} of epoch {self._epoch} is outside the {len(self._rows)} rows"
            )
        known = {key: int(value) for key, value in state["counts"].items() if key in (*self.counts, SPECIAL_TEXT)}
        self.counts = {**dict.fromkeys(self.counts, 0), **known}
        self._order = self._order_of(self._epoch)

    def accept_overlong(self, row: int, reason: str, *, can_be_cut: bool = True) -> bool:
        """Count an over-long row by the configuration, and tell whether it is used, cut to the limit.

        Args:
            reason: the part that is too long, with both numbers.
            can_be_cut: false if a cut row would have nothing left to learn; then ``truncate`` drops the row.

        Raises:
            StoppedByRow: over-long rows are errors.
        """
        reason = f"{self._rows.place(row)}: {reason}"
        if self._config.overlong == "error":
            raise StoppedByRow(f"{reason}; data.overlong: drop or truncate goes on without it")
        if self._config.overlong == "truncate" and can_be_cut:
            self.counts["truncated"] += 1
            return True
        self.counts["dropped"] += 1
        self._last_rejection = reason
        return False

    def count_special(self, tokenizer: Tokenizer, texts: Any) -> None:
        """Count a row if the texts of its messages write special tokens, which are read as text."""
        if tokenizer.literals.found(texts):
            self.counts[SPECIAL_TEXT] = self.counts.get(SPECIAL_TEXT, 0) + 1

    def _draw(self, row: int, epoch: int) -> Drawn | None:
        content = self._rows[row]
        if isinstance(content, BadRow):
            self._leave_out(content)
            return None
        try:
            return self.encode(content, row=row, uid=row + epoch * len(self._rows))
        except StoppedByRow:
            raise
        except DataError as error:
            self._leave_out(BadRow(self._rows.place(row), str(error)))
            return None

    def _leave_out(self, row: BadRow) -> None:
        if self._config.bad_rows == "stop":
            raise _stopped(row)
        self.counts["skipped"] += 1
        self._last_rejection = str(row)

    def _next_epoch(self) -> None:
        if not self._usable:
            raise self._nothing_left()
        self._epoch, self._position, self._usable = self._epoch + 1, 0, 0
        self._order = self._order_of(self._epoch)

    def _nothing_left(self) -> DataError:
        counts = ", ".join(f"{self.counts[key]} {key}" for key in ("dropped", "skipped"))
        return DataError(
            f"no usable {self.noun} in the {len(self._rows)} rows of {self._name} ({counts}); the last: {self._last_rejection}"
        )

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        return epoch_order(len(self._rows), self._seed, epoch) if self._config.shuffle else np.arange(len(self._rows))

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "shuffle": self._config.shuffle,
            "rows": len(self._rows),
            "fingerprint": self._fingerprint,
        }

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._rows)


class StoppedByRow(DataError):
    """A row that ends the run although others could be used; the text includes its place."""


class PromptStream(RowStream[Prompt]):
    """Prompts of one source."""

    noun = "prompt"

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, *, seed: int) -> None:
        """Raises DataError on an unreadable or empty source, and on a bad line where ``bad_rows`` is ``stop``."""
        super().__init__(config, seed=seed)
        self._settings, self._tokenizer = config, tokenizer
        self._images: ImagePrompts | None = None
        if config.images is not None:
            self._images = ImagePrompts(config, config.images, tokenizer, source_folder(config.source))
            self._images.check_column(self._rows)

    def encode(self, content: Mapping[str, Any], *, row: int, uid: int) -> Prompt | None:
        """Encode a prompt; None if it is over-long and left out. A prompt with images is never cut."""
        if self._images is None:
            encoded = encode_row(content, self._settings, self._tokenizer)
        else:
            encoded = self._images.encode(content)
        limit = self._settings.max_prompt_tokens
        images = " with its images (data.images.processor can make them smaller)" if encoded.features else ""
        if encoded.tokens > limit and not self.accept_overlong(
            row, f"the prompt has {encoded.tokens} tokens{images}, data.max_prompt_tokens is {limit}",
            can_be_cut=not encoded.features,
        ):  # fmt: skip
            return None
        self.count_special(self._tokenizer, [*encoded.messages, content.get("tools")])
        return Prompt(
            uid=uid, ids=encoded.ids, text=encoded.text, columns=encoded.columns, row=row,
            messages=tuple(encoded.messages), features=encoded.features,
        )  # fmt: skip


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of ``0..rows-1`` from (seed, epoch).

    It sorts the raw output of Philox: NumPy guarantees equal bit streams between versions, but not equal shuffles.
    """
    raw = np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(rows)
    return np.argsort(raw, kind="stable")


def fingerprint(rows: Rows) -> str:
    """Return a hex digest of the number of rows and of up to 16 of them, including the first and the last."""
    digest = hashlib.sha256(str(len(rows)).encode())
    for index in sorted({int(i) for i in np.linspace(0, len(rows) - 1, SAMPLED)}):
        row = rows[index]
        content = str(row.reason) if isinstance(row, BadRow) else json.dumps(_canonical(row), sort_keys=True)
        digest.update(content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def shard(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """Return this rank's contiguous part; sizes differ by at most one, and the parts in rank order make up all items.

    Raises:
        ValueError: ``rank`` is not in ``0..world_size-1``.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
    return items[rank * len(items) // world_size : (rank + 1) * len(items) // world_size]


def _stopped(row: BadRow, more: str = "") -> DataError:
    return DataError(f"{row}{more}; data.bad_rows: skip goes on without it")


def _canonical(value: Any) -> Any:
    """Return a value as JSON that is equal in every process: no addresses, no order of sets, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (np.ndarray, np.generic)):
        return _canonical(value.tolist())
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (bytes, date)):
        return str(value)
    return type(value).__name__
