"""What all kinds of tokenizers share: the chat template over an encoder, and messages whose special tokens are text.

A kind adds its vocabulary, ``encode_marked``, ``decode`` and ``piece``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .chat_template import ChatTemplate
from .literals import MARK, Literals, unmarked

SPECIAL_TEXT = (
    "a message writes the special token {token!r}, and {reason}, so that it cannot be kept as text; accepted: messages "
    "without it, or data.rendering.special_tokens: tokens, which lets messages write special tokens"
)


class TemplatedTokenizer(ABC):
    """A tokenizer with a chat template or without; implements ``render``, ``chat`` and ``encode`` of the protocol."""

    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int
    prefix_ids: tuple[int, ...] = ()

    def __init__(self, name: str, folder: Path, template: ChatTemplate | None) -> None:
        self.folder = folder
        self.has_chat_template = template is not None
        self.literals = Literals({})
        self._name, self._template = name, template

    @abstractmethod
    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of a text; a special token with ``literals.MARK`` in it is plain text without the mark."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str: ...

    @abstractmethod
    def piece(self, token: int) -> str: ...

    def encode(self, text: str) -> list[int]:
        ids = self.encode_marked(text)
        if MARK not in text or self._are_written(ids, text):
            return ids
        # The vocabulary itself joins the text to the special token: its parts are encoded one by one.
        ids = [token for part in text.split(MARK) for token in self.encode_marked(part)]
        plain = [token for token in ids if token not in self.literals.tokens]
        if self._are_written(ids, text) and self.decode(plain) == self.literals.without(text):
            return ids
        token = next((token for token in self.literals.ids if self.literals.marked(token) in text), "")
        raise DataError(SPECIAL_TEXT.format(token=token, reason="the tokenizer has no other tokens for this text"))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        if self._template is None:
            raise DataError(f"tokenizer {self._name} has no chat template")
        names = variables or {}
        text = self._template.render(messages, generation_prompt=generation_prompt, variables=names)
        found = self.literals.found([list(messages), list(names.values())])
        if not found:
            return text
        marked = self._template.render(
            self.literals.marked(list(messages)),
            generation_prompt=generation_prompt,
            variables={name: self.literals.marked(value) for name, value in names.items()},
        )
        if unmarked(marked) != text:
            raise DataError(SPECIAL_TEXT.format(token=found[0], reason="the chat template reads it there"))
        return marked

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return self.encode(self.render(messages, generation_prompt=generation_prompt, variables=variables))

    def _are_written(self, ids: Sequence[int], text: str) -> bool:
        """Tell whether the special tokens among the ids are those that the text has without a mark."""
        return self.literals.among(ids) == [self.literals.ids[token] for token in self.literals.found(text)]


def ids_before(encode: Callable[[str, bool], Sequence[int]]) -> tuple[int, ...]:
    """Return the ids that a tokenizer puts before a text; ``encode`` takes a text and whether to add special tokens."""
    plain, full = (list(encode("a", added)) for added in (False, True))
    extra = len(full) - len(plain)
    start = next((at for at in range(extra + 1) if full[at : at + len(plain)] == plain), 0)
    return tuple(full[:start])
