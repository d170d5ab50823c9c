"""Examples of an offline dataset: a prompt, one completion or a pair, and the numbers of the row that a loss reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..config.offline import PARTS, OfflineDataConfig
from ..errors import DataError
from ..tokenizers.masks import Completion
from ..tokenizers.tokenizer import Tokenizer
from ..types import IntArray
from .mixture import Source
from .prompts import is_templated
from .row_check import Tally
from .row_encoders import Encoder, all_trained, column_of, encode_labelled, encode_supervised
from .row_forms import LabelledPairs, in_our_form
from .rows import ChangedRows, Rows
from .stream import RowStream
from .turns import TurnRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One draw of one row, tokenised.

    Attributes:
        uid: number of this draw: row + epoch * rows.
        row: the row's place in its source.
        prompt: tokens ``[P]``.
        completions: one, or chosen and rejected.
        numbers: further inputs of a loss by the name of their tensor: ``label``, ``margin``.
        source: name of the row's source, where there are several.
    """

    uid: int
    row: int
    prompt: IntArray
    completions: tuple[Completion, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    @property
    def tokens(self) -> int:
        """Length of the prompt with its longest completion."""
        return len(self.prompt) + max(len(completion) for completion in self.completions)


class ExampleStream(RowStream[Example]):
    """Examples of one source, made by the encoder of its kind of row."""

    def __init__(self, config: OfflineDataConfig, encoder: Encoder, tokenizer: Tokenizer, *, seed: int) -> None:
        """Raises DataError on an unreadable or empty source."""
        self._settings, self._encoder, self._tokenizer = config, encoder, tokenizer
        self._check_settings()
        super().__init__(config, seed=seed)

    def open_rows(self, source: Source) -> tuple[Rows, Rows]:
        """Open a source: as written, and in our form, a row perhaps as several examples (pairs for KTO, ``data.turns``)."""
        written, _ = super().open_rows(source)
        column = partial(column_of, self._settings)
        templated = is_templated(self._settings, self._tokenizer)
        rows: Rows = ChangedRows(written, partial(in_our_form, column_of=column, templated=templated))
        if self._encoder is encode_labelled and LabelledPairs.fit(rows, column):
            rows = LabelledPairs(rows, column)
        if self._settings.turns == "apart":
            rows = TurnRows(rows, column("messages"))
        return written, rows

    def _check_settings(self) -> None:
        """Raise DataError for settings of conversations where the rows are none."""
        for name, usual in (("turns", "together"), ("trained", "answers")):
            value = getattr(self._settings, name)
            if value != usual and self._encoder is not encode_supervised:
                raise DataError(
                    f"data.{name}: {value} is for rows of objective sft; accepted for other objectives: {usual}"
                )

    def note(self, drawn: Example, tally: Tally) -> None:
        parts = [drawn.prompt, *(completion.ids for completion in drawn.completions)]
        tally.see(drawn.tokens, max(int(max(part, default=0)) for part in parts), drawn.source, ())

    def encoded_by(self) -> str:
        return f"{self._tokenizer.folder} {self._encoder.__name__}"

    def encode(self, content: Mapping[str, Any], *, row: int, uid: int) -> Example | None:
        """Return the example of a row, or None if it is over-long and left out."""
        encoded = self._encoder(content, self._settings, self._tokenizer)
        if self._settings.trained == "all":
            encoded = all_trained(encoded)
        check_completions(encoded.completions)
        example = Example(
            uid=uid, row=row, prompt=encoded.prompt, completions=encoded.completions, numbers=encoded.numbers,
            source=self.rows.source_of(row),
        )  # fmt: skip
        if is_templated(self._settings, self._tokenizer):
            self.count_special(self._tokenizer, [content.get(column_of(self._settings, part)) for part in PARTS])
        limit = self._settings.max_tokens
        if example.tokens <= limit:
            return example
        room = limit - len(example.prompt)
        cut = tuple(completion.cut(max(0, room)) for completion in example.completions)
        if not self.accept_overlong(
            row,
            f"prompt and completion have {example.tokens} tokens, data.max_tokens is {limit}",
            can_be_cut=all(completion.mask.any() for completion in cut) and not are_equal(cut),
        ):
            return None
        return replace(example, completions=cut)


def are_equal(completions: tuple[Completion, ...]) -> bool:
    """Tell whether these are a pair of equal tokens."""
    return len(completions) > 1 and completions[0].ids.tolist() == completions[1].ids.tolist()


def check_completions(completions: tuple[Completion, ...]) -> None:
    """Raise DataError where there is nothing to learn: no trained token, or a pair of equal completions."""
    if not all(completion.mask.any() for completion in completions):
        raise DataError("a completion has no token to learn from")
    if are_equal(completions):
        raise DataError("chosen and rejected are the same tokens")
