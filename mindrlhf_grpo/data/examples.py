"""Rows with completions given: one prompt, one completion or a pair, and numbers that belong to the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..config.offline import OfflineDataConfig
from ..errors import DataError, did_you_mean
from ..tokenizers.masks import Completion, encode_conversation, encode_text
from ..tokenizers.tokenizer import Conversation, Tokenizer
from ..types import IntArray
from .prompts import read_column, with_system
from .stream import RowStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One draw of one row, tokenised.

    Attributes:
        uid: number of this draw: row + epoch * rows.
        row: the row's place in its source.
        prompt: tokens ``[P]``.
        completions: one; or chosen and rejected.
        numbers: what else a loss reads of the row, by the name of the tensor: ``label``, ``margin``.
    """

    uid: int
    row: int
    prompt: IntArray
    completions: tuple[Completion, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of the prompt with its longest completion."""
        return len(self.prompt) + max(len(completion) for completion in self.completions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What an encoder makes of a row: an example without its place."""

    prompt: IntArray
    completions: tuple[Completion, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)


Encoder: TypeAlias = Callable[[Mapping[str, Any], OfflineDataConfig, Tokenizer], Encoded]


class ExampleStream(RowStream[Example]):
    """Examples of one source, each made by the encoder of its kind of rows."""

    def __init__(self, config: OfflineDataConfig, encoder: Encoder, tokenizer: Tokenizer, *, seed: int) -> None:
        """Raises DataError on an unreadable or empty source, and on a bad line where ``bad_rows`` is ``stop``."""
        super().__init__(config, seed=seed)
        self._settings, self._encoder, self._tokenizer = config, encoder, tokenizer

    def encode(self, content: Mapping[str, Any], *, row: int, uid: int) -> Example | None:
        """The example of a row; None if it is over-long and left out."""
        made = self._encoder(content, self._settings, self._tokenizer)
        check_completions(made.completions)
        example = Example(uid=uid, row=row, prompt=made.prompt, completions=made.completions, numbers=made.numbers)
        limit = self._settings.max_tokens
        if example.tokens <= limit:
            return example
        room = limit - len(example.prompt)
        cut = tuple(completion.cut(max(0, room)) for completion in example.completions)
        if not self.accept_overlong(
            row,
            f"prompt and completion have {example.tokens} tokens, data.max_tokens is {limit}",
            can_be_cut=all(completion.mask.any() for completion in cut),
        ):
            return None
        check_completions(cut)
        return replace(example, completions=cut)


def check_completions(completions: tuple[Completion, ...]) -> None:
    """Raise DataError where nothing is to be learned: no trained token, or a pair of equal completions."""
    if not all(completion.mask.any() for completion in completions):
        raise DataError("a completion has no token to learn from")
    if len(completions) > 1 and completions[0].ids.tolist() == completions[1].ids.tolist():
        raise DataError("chosen and rejected are the same tokens")


# ---- parts of a row that several kinds have


def column_of(config: OfflineDataConfig, part: str) -> str:
    """The column that holds a part of the row."""
    return config.columns.get(part, part)


def number(row: Mapping[str, Any], config: OfflineDataConfig, part: str) -> float:
    """A finite number, true or false of a row; raises DataError on anything else."""
    column = column_of(config, part)
    if column not in row:
        raise DataError(
            f"no column {column!r}{did_you_mean(column, map(str, row))}; columns: {', '.join(map(str, row))}"
        )
    value = row[column]
    if not isinstance(value, (bool, int, float)) or not abs(value) < float("inf"):
        raise DataError(f"{column} is {value!r}, not a finite number, true or false")
    return float(value)


def read_text(row: Mapping[str, Any], config: OfflineDataConfig, part: str) -> str | Conversation:
    """Non-empty text or messages of a part; raises DataError naming it."""
    try:
        return read_column(row, column_of(config, part))
    except DataError as error:
        raise DataError(str(error).replace("the prompt", part)) from None


def encode_answer(
    prompt: str | Conversation, answer: str | Conversation, config: OfflineDataConfig, tokenizer: Tokenizer
) -> tuple[IntArray, Completion]:
    """Prompt and completion as tokens: through the chat template where there is one, else text after text.

    Raises:
        DataError: messages without a chat template, or a template that refuses them.
    """
    if not tokenizer.has_chat_template or config.chat_template == "none":
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise DataError("the row has a list of messages, which needs a chat template (data.chat_template)")
        text = prompt if config.system_prompt is None else f"{config.system_prompt}\n\n{prompt}"
        ids = tokenizer.encode(text)
        if not ids:
            raise DataError("the prompt has no tokens")
        return np.asarray(ids, dtype=np.int32), encode_text(answer, tokenizer)
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    given = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    return encode_messages([*asked, *given], len(asked), config, tokenizer)


def encode_messages(
    messages: Conversation, start: int, config: OfflineDataConfig, tokenizer: Tokenizer
) -> tuple[IntArray, Completion]:
    """A conversation whose assistant messages from ``start`` on are trained, the system prompt added."""
    whole = with_system(messages, config.system_prompt)
    return encode_conversation(whole, start + len(whole) - len(messages), tokenizer)
