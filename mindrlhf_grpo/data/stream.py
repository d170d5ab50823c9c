"""Streams of prompts or examples: rows in a seeded, endless order, resumable to the row, the same on every rank.

The order of an epoch depends on (seed, epoch) alone, so a state of a few numbers continues it exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..config.run import DataConfig
from ..errors import DataError
from ..tokenizers.tokenizer import Tokenizer
from ..types import Prompt
from .fingerprint import RowSums, fingerprint
from .image_prompts import ImagePrompts
from .mixture import Mixture, Setting, Source, open_mixture, setting_name
from .prompts import EncodedPrompt, encode_row
from .row_check import StoppedByRow, Survey, Tally
from .row_forms import as_prompt
from .rows import BadRow, ChangedRows, Rows, check_depth
from .sources import read_rows

T = TypeVar("T")
Drawn = TypeVar("Drawn")
SPECIAL_TEXT = "special_text"
CHECKED = 100_000  # rows that are checked before the first step; of more, those that are drawn first
CHECKED_WITH_IMAGES = 1_000
CHECKED_ON_DEMAND = 100
SURVEYS: dict[tuple[str, ...], Survey] = {}  # checks of this process, which a command and its trainer both ask for


class RowSettings(Protocol):
    """The configuration of a stream: the source, and the treatment of rows that cannot be used."""

    @property
    def source(self) -> Setting: ...
    @property
    def shuffle(self) -> bool: ...
    @property
    def bad_rows(self) -> Literal["stop", "skip"]: ...
    @property
    def overlong(self) -> Literal["error", "drop", "truncate"]: ...


class RowStream(Generic[Drawn]):
    """The encoded rows of one or several sources, epoch after epoch; rows are tokenised when drawn.

    Attributes:
        counts: draws so far that were ``dropped`` (over-long), ``truncated``, or ``skipped`` (bad row); once there is
            one, also those of which a message has ``special_text`` (a special token that is read as text).
        noun: the name of one draw, for messages.
        checked: rows that ``check`` encodes at most.
    """

    noun = "row"
    checked = CHECKED

    def __init__(self, config: RowSettings, *, seed: int) -> None:
        """Raises DataError on an unreadable or empty source."""
        self._config = config
        self._seed = seed
        self._name = setting_name(config.source)
        self.rows: Mixture = open_mixture(config.source, self.open_rows)
        self.counts = {"dropped": 0, "truncated": 0, "skipped": 0}
        self._epoch = 0
        self._position = 0  # draws of this epoch
        self._usable = 0  # usable draws of this epoch
        self._last_rejection = ""  # why the last row was left out, for the message when none remains
        self._order = self._order_of(0)

    def __len__(self) -> int:
        return len(self.rows)

    def open_rows(self, source: Source) -> tuple[Rows, Rows]:
        """Open a source: its rows as written, and as they are drawn; raises DataError if it cannot be read."""
        rows = read_rows(source)
        return rows, rows

    def encode(self, content: Mapping[str, Any], *, row: int, uid: int) -> Drawn | None:
        """Encode a row; None if it is left out, which ``accept_overlong`` has counted.

        Raises:
            DataError: the row cannot be used; the text does not have its place.
            StoppedByRow: an over-long row ends the run.
        """
        raise NotImplementedError

    def note(self, drawn: Drawn, tally: Tally) -> None:
        """Tally a draw of a check: its tokens, source and columns."""
        raise NotImplementedError

    def encoded_by(self) -> str:
        """Return what else than rows and configuration decides how rows become tokens, as text."""
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
            drawn = self._draw(row, self.rows.uid(row, self._epoch, self._position))
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
        """Return every usable row once, in the source's order (held-out rows); the position of ``take`` stays.

        Raises:
            DataError: rows stop the run, with their number and the first of each kind; or no row is usable.
        """
        tally = Tally(len(self))
        usable = list(self._encoded(range(len(self)), tally))
        tally.raise_if_stopped(self._name)
        if not usable:
            raise self._nothing_left()
        return usable

    def check(self) -> Survey:
        """Encode the rows before the first step, so that none of them stops the run later; nothing is drawn.

        Up to ``checked`` rows are encoded; of more rows, those that the run draws first. Raises DataError as ``all``.
        """
        key = (type(self).__name__, self._sums.digest, repr(self._config), str(self._seed), self.encoded_by())
        if key not in SURVEYS:
            SURVEYS[key] = self._survey()
        return SURVEYS[key]

    def _survey(self) -> Survey:
        rows: Iterable[int] = range(len(self))
        limit = min(self.checked, CHECKED_ON_DEMAND) if self.rows.on_demand else self.checked
        if len(self) > limit:
            rows = sorted({int(row) for row in self._order_of(0)[:limit]})
        before, self.counts = self.counts, dict.fromkeys(self.counts, 0)
        tally = Tally(len(self))
        try:
            for drawn in self._encoded(rows, tally):
                self.note(drawn, tally)
            tally.raise_if_stopped(self._name)
            if not tally.usable:
                raise self._nothing_left()
            return tally.survey(self._name, self.counts)
        finally:
            self.counts = before

    def _encoded(self, rows: Iterable[int], tally: Tally) -> Iterator[Drawn]:
        """Encode rows for the first time; those that stop the run are tallied instead."""
        for row in rows:
            try:
                drawn = self._draw(row, row)
            except StoppedByRow as error:
                tally.stop(error)
                continue
            finally:
                tally.done()
            if drawn is not None:
                yield drawn

    def state(self) -> dict[str, Any]:
        """Return the state from which ``load_state`` continues with the next row, as plain JSON."""
        position = {"epoch": self._epoch, "position": self._position, "kept": self._usable}
        return {**position, "counts": dict(self.counts), **self._identity(), "sums": self._sums.packed}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            DataError: the state is incomplete, or of another source, other rows, another seed or order.
        """
        expected = {"epoch", "position", "kept", "counts", *self._identity()}
        missing = sorted(expected - set(state))
        if missing:
            raise DataError(f"saved data position lacks {', '.join(missing)}")
        self._check_rows(state)
        for key, now in self._identity().items():
            old_form = key == "fingerprint" and "sums" not in state  # a checkpoint of version 0.2
            if state[key] != (fingerprint(self.rows) if old_form else now):
                raise DataError(
                    f"cannot resume: data source {self._name} has {key} {now!r}, the saved position {state[key]!r}"
                )
        self._epoch, self._position, self._usable = (int(state[key]) for key in ("epoch", "position", "kept"))
        if self._epoch < 0 or not 0 <= self._position <= len(self.rows):
            raise DataError(
                f"saved data position {self._position} of epoch {self._epoch} is outside the {len(self.rows)} rows"
            )
        known = {key: int(value) for key, value in state["counts"].items() if key in (*self.counts, SPECIAL_TEXT)}
        self.counts = {**dict.fromkeys(self.counts, 0), **known}
        self._order = self._order_of(self._epoch)

    def _check_rows(self, state: Mapping[str, Any]) -> None:
        """Raise DataError, naming rows, if rows have changed, or were added or removed, since the state was saved."""
        if "sums" not in state or state["fingerprint"] == self._sums.digest:
            return
        difference = self._sums.difference(state["sums"])
        if difference:
            raise DataError(
                f"cannot resume: the rows of {self._name} are not those that the run began with: {difference}. "
                "Put the old rows back, or take another run_dir"
            )

    def accept_overlong(self, row: int, reason: str, *, can_be_cut: bool = True) -> bool:
        """Count an over-long row by the configuration, and tell whether it is used, cut to the limit.

        Args:
            reason: the part that is too long, with both numbers.
            can_be_cut: false if a cut row would have nothing left to learn; then ``truncate`` drops the row.

        Raises:
            StoppedByRow: over-long rows are errors.
        """
        place = self.rows.place(row)
        if self._config.overlong == "error":
            raise StoppedByRow("over-long", place, reason, "data.overlong: drop or truncate goes on without it")
        if self._config.overlong == "truncate" and can_be_cut:
            self.counts["truncated"] += 1
            return True
        self.counts["dropped"] += 1
        self._last_rejection = f"{place}: {reason}"
        return False

    def count_special(self, tokenizer: Tokenizer, texts: Any) -> None:
        """Count a row if the texts of its messages write special tokens, which are read as text."""
        if tokenizer.literals.found(texts):
            self.counts[SPECIAL_TEXT] = self.counts.get(SPECIAL_TEXT, 0) + 1

    def _draw(self, row: int, uid: int) -> Drawn | None:
        content = self.rows[row]
        if isinstance(content, BadRow):
            self._leave_out(content)
            return None
        try:
            check_depth(content)
            return self.encode(content, row=row, uid=uid)
        except StoppedByRow:
            raise
        except DataError as error:
            self._leave_out(BadRow(self.rows.place(row), str(error)))
            return None

    def _leave_out(self, row: BadRow) -> None:
        if self._config.bad_rows == "stop":
            raise StoppedByRow("bad", row.place, row.reason, "data.bad_rows: skip goes on without it")
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
            f"no usable {self.noun} in the {len(self.rows)} rows of {self._name} ({counts}); the last: {self._last_rejection}"
        )

    def _order_of(self, epoch: int) -> Any:
        return self.rows.order(self._seed, epoch, shuffle=self._config.shuffle)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "shuffle": self._config.shuffle,
            "rows": len(self.rows),
            "fingerprint": self._sums.digest,
        }

    @cached_property
    def _sums(self) -> RowSums:
        return RowSums(self.rows)


class PromptStream(RowStream[Prompt]):
    """Prompts of one or several sources."""

    noun = "prompt"

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        *,
        seed: int,
        room: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Open the sources.

        Args:
            tools: definitions of an environment's tools, written by the chat template.
            room: tokens that the model's context leaves for a prompt beside its completion; None: any number.

        Raises:
            DataError: a source is unreadable or empty, or has no column of images where images are asked for.
        """
        self._tokenizer, self._column, self._tools = tokenizer, config.prompt_column, tools
        super().__init__(config, seed=seed)
        self._room = room if room is not None and room < config.max_prompt_tokens else None
        self._limit = self._room or config.max_prompt_tokens
        self._settings = config.model_copy(update={"max_prompt_tokens": self._limit})
        self._images: ImagePrompts | None = None
        if config.images is not None:
            self.checked = CHECKED_WITH_IMAGES
            self._images = ImagePrompts(config, config.images, tokenizer, Path())
            self._images.check_column(self.rows)

    def open_rows(self, source: Source) -> tuple[Rows, Rows]:
        """Open a source: as written, and with the prompt in its column where the rows are of a known form."""
        written, _ = super().open_rows(source)
        return written, ChangedRows(written, partial(as_prompt, column=self._column))

    def encode(self, content: Mapping[str, Any], *, row: int, uid: int) -> Prompt | None:
        """Encode a prompt; None if it is over-long and left out. A prompt with images is never cut."""
        if self._images is None:
            encoded = encode_row(content, self._settings, self._tokenizer, self._tools)
        else:
            encoded = self._images.encode(content, self.rows.folder_of(row))
        if encoded.tokens > self._limit and not self.accept_overlong(
            row, self._too_long(encoded), can_be_cut=not encoded.features
        ):
            return None
        self.count_special(self._tokenizer, [*encoded.messages, content.get("tools")])
        return Prompt(
            uid=uid, ids=encoded.ids, text=encoded.text, columns=encoded.columns, row=row,
            messages=tuple(encoded.messages), features=encoded.features, source=self.rows.source_of(row),
        )  # fmt: skip

    def note(self, drawn: Prompt, tally: Tally) -> None:
        tally.see(len(drawn.ids), int(max(drawn.ids, default=0)), drawn.source, drawn.columns)

    def encoded_by(self) -> str:
        return f"{self._tokenizer.folder} {self._limit} {self._tools}"

    def _too_long(self, encoded: EncodedPrompt) -> str:
        images = " with its images (data.images.processor can make them smaller)" if encoded.features else ""
        limit = f"data.max_prompt_tokens is {self._limit}"
        if self._room is not None:
            limit = f"the model's context has room for {self._limit} beside rollout.max_tokens"
        return f"the prompt has {encoded.tokens} tokens{images}, {limit}"


def shard(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """Return this rank's contiguous part; sizes differ by at most one, and the parts in rank order make up all items.

    Raises:
        ValueError: ``rank`` is not in ``0..world_size-1``.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
    return items[rank * len(items) // world_size : (rank + 1) * len(items) // world_size]
