"""Items of completions: the item that each token belongs to, for rewards per item (``[N, K]``).

A function of the completion's text decides (``items.function``); this module gives it the position of each token in the
text. By default items are lines, as in Rank-GRPO (https://arxiv.org/abs/2510.20150): the k-th line is the k-th
item and a newline belongs to the line it ends. Legend: N completions, T longest completion, K items.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config.algorithm import ItemsConfig
from ..errors import ConfigError, UserError
from ..tokenizers.tokenizer import Tokenizer
from ..types import Rollout, RolloutGroup
from ..user_functions import describe, import_function
from .online import completion_lengths

NONE = -1  # marks a token outside every item
REPLACEMENT = "\ufffd"  # the first bytes of a character decode to it
LONGEST = 4  # bytes of the longest character; more tokens without a valid character will not make one

# (text, ends, ended, K, settings) -> the item of each token, and optionally a bonus for each token's advantage
ItemFunction: TypeAlias = Callable[..., "Sequence[int] | tuple[Sequence[int], Sequence[float]]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The items of a batch.

    Attributes:
        items: item of each token ``[N, T]``: ``0..K-1``; ``K`` past the last item (overflow); ``K + 1`` the end token
            where it belongs to no item; -1 for none, and past a completion's end.
        extra: added to the advantage of each token ``[N, T]``; None where the function gives none.
    """

    items: NDArray[np.int32]
    extra: NDArray[np.float32] | None


def line(text: str, ends: Sequence[int], ended: bool, items: int) -> list[int]:
    """Line number of each token; -1 for tokens past the ``items``-th line. The built-in ``line``."""
    return [number if number < items else NONE for number in line_numbers(text, ends)]


def line_numbers(text: str, ends: Sequence[int]) -> list[int]:
    """Line of each token's first character: a token with newlines belongs to the line that it ends."""
    newlines = [place for place, letter in enumerate(text) if letter == "\n"]
    return [bisect_right(newlines, start - 1) for start in starts(ends)]


def starts(ends: Sequence[int]) -> list[int]:
    """Start of each token, from the ends."""
    return [0, *ends[:-1]] if ends else []


class ItemSpans:
    """Finds the items of completions.

    Raises:
        ConfigError: at construction, for a function that does not exist.
    """

    def __init__(self, config: ItemsConfig | None, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config or ItemsConfig(), tokenizer
        self.function = item_function(self.config)
        self.end_tokens = frozenset(tokenizer.eos_ids)

    def of(self, groups: Sequence[RolloutGroup], items: int) -> Segments:
        """Items of every token, group by group, sample by sample.

        Raises:
            ConfigError: the function fails, or does not return one item per token.
        """
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        shape = len(rollouts), int(completion_lengths(groups).max(initial=0))
        item_of, extra = np.full(shape, NONE, np.int32), np.zeros(shape, np.float32)
        for row, rollout in enumerate(rollouts):
            row_items, row_extra = self._call(rollout, items)
            item_of[row, : len(row_items)], extra[row, : len(row_items)] = row_items, row_extra
        return Segments(items=item_of, extra=extra if extra.any() else None)

    def _call(self, rollout: Rollout, items: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Call the function on one completion and check its answer."""
        label, count = f"items.function {self.config.function!r}", len(rollout.ids)
        ends = character_ends(rollout, self.tokenizer)
        ended = count > 0 and int(rollout.ids[-1]) in self.end_tokens
        try:
            answer = self.function(rollout.text, ends, ended, items, **self.config.arguments)
            row_items, row_extra = answer if isinstance(answer, tuple) else (answer, [0.0] * count)
            pair = np.asarray(row_items, np.int64), np.asarray(row_extra, np.float64)
        except Exception as error:  # user code
            raise ConfigError(f"{label} failed: {describe(error)}") from error
        if any(part.shape != (count,) for part in pair) or not np.isfinite(pair[1]).all():
            raise ConfigError(f"{label} must give an item (and a finite number) for each of {count} tokens")
        if count and not NONE <= pair[0].min() <= pair[0].max() <= items + 1:
            raise ConfigError(f"{label}: items run from -1 to {items + 1}, not {pair[0].min()} to {pair[0].max()}")
        return pair


def item_function(config: ItemsConfig) -> ItemFunction:
    """Import the function of a configuration. Raises ConfigError if there is none, or it takes other arguments."""
    try:
        function: ItemFunction = line if config.function == "line" else import_function(config.function)
    except UserError as error:
        raise ConfigError(f"items.function: {error}; accepted: line, pkg.module:function, file.py:function") from error
    try:
        inspect.signature(function).bind("", [], False, 1, **config.arguments)
    except TypeError as error:
        raise ConfigError(f"items.arguments: {config.function}: {error}") from error
    return function


def character_ends(rollout: Rollout, tokenizer: Tokenizer) -> list[int]:
    """Number of characters of the completion's text up to the end of each token.

    A token that ends inside a character ends before it: the character counts for the token that completes it. Text after
    a stop string, which is not part of the completion, does not count.
    """
    ids = [int(token) for token in rollout.ids]
    ends = _by_window(ids, tokenizer)
    if ends and ends[-1] < len(rollout.text.rstrip(REPLACEMENT)):  # a decoder that decodes a window differently
        ends = [len(tokenizer.decode(ids[: place + 1]).rstrip(REPLACEMENT)) for place in range(len(ids))]
    return [min(end, len(rollout.text)) for end in np.maximum.accumulate([0, *ends])[1:].tolist()]


def _by_window(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Ends of tokens, each decoded after the tokens before it: decoders treat the first token of a text differently."""
    ends: list[int] = []
    first = read = done = 0  # ids[first:read] is decoded before the token, and is ``done`` characters into the text
    for place in range(len(ids)):
        before, text = tokenizer.decode(ids[first:read]), tokenizer.decode(ids[first : place + 1])
        partial = text.endswith(REPLACEMENT) and place - read < LONGEST
        added = len(text.rstrip(REPLACEMENT) if partial else text) - len(before)
        ends.append(done + max(0, added))
        if not partial and added > 0:
            done, first, read = ends[-1], read, place + 1
    return ends
