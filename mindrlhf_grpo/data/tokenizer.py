"""Tokenizers behind one small protocol; text becomes ids here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """What the system needs of a tokenizer."""

    eos_ids: tuple[int, ...]  # every id that ends a completion
    pad_id: int
    vocab_size: int  # ids run over 0..vocab_size-1, added tokens included

    def encode(self, text: str) -> list[int]:
        """Ids of the text, with no special tokens added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        ...

    def piece(self, token: int) -> str:
        """One token as text, special tokens shown: for the report."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation with the generation prompt; raises DataError if there is no chat template."""
        ...
