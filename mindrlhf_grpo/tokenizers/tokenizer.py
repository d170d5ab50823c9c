"""Tokenizers behind one small protocol; text becomes ids here and nowhere else.

Files are read by the library of their format (tokenizers, sentencepiece, tiktoken), never through a framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ..errors import DataError
from .chat_template import ChatTemplate, select_template
from .literals import Literals
from .tokenizer_files import TokenizerFiles, find_tokenizer, is_tiktoken

Message: TypeAlias = dict[str, Any]
Conversation: TypeAlias = list[Message]


class Tokenizer(Protocol):
    """The interface that the system uses of a tokenizer."""

    eos_ids: tuple[int, ...]  # every id that ends a completion
    pad_id: int
    vocab_size: int  # ids run over 0..vocab_size-1, added tokens included
    has_chat_template: bool
    prefix_ids: tuple[int, ...]  # ids that the tokenizer itself puts before a text (BOS); encode leaves them out
    folder: Path  # the folder of its files
    literals: Literals  # special tokens that are text in messages

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without adding special tokens; those written in it are recognised unless marked."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens; unknown ids (of a padded vocabulary) are left out."""
        ...

    def piece(self, token: int) -> str:
        """Return one token as text, special tokens included, for the report."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of a conversation in the chat template, by default with the generation prompt.

        ``variables`` are further names that the template reads (``tools``, ``enable_thinking``). Special tokens that
        messages write are marked: ``encode`` takes them as text, ``literals.unmarked`` returns what people read.

        Raises:
            DataError: there is no chat template, it refuses the conversation, or a special token cannot be text.
        """
        ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids of ``render``'s text; raises as it does."""
        ...


def encode_prompt_text(text: str, tokenizer: Tokenizer, *, bos: Literal["auto", "never"] = "auto") -> list[int]:
    """Return the ids of a prompt without a chat template, with the tokenizer's BOS unless it is there or unwanted."""
    ids, prefix = tokenizer.encode(text), list(tokenizer.prefix_ids)
    return ids if bos == "never" or not ids or ids[: len(prefix)] == prefix else [*prefix, *ids]


def load_tokenizer(
    path: str,
    *,
    chat_template: str = "auto",
    trust_remote_code: bool = False,
    special_tokens: Literal["text", "tokens"] = "text",
) -> Tokenizer:
    """Load the tokenizer of a Hugging Face folder, a hub id, or one file.

    Args:
        path: a folder, a hub id, or a file tokenizer.json, tokenizer.model or NAME.tiktoken.
        chat_template: ``auto`` takes the tokenizer's own if it has one, ``none`` takes none, anything else is a
            Jinja file.
        trust_remote_code: let transformers run code shipped with the folder if there is no known file.
        special_tokens: what special tokens are that a message writes: its ``text``, or ``tokens`` as the template's own.

    Raises:
        DataError: there is no tokenizer, a file is broken, there is no end token, or a package is missing.
    """
    files = find_tokenizer(path, trust_remote_code=trust_remote_code)
    source = select_template(chat_template, files.chat_template)
    template = None if source is None else ChatTemplate(source, files.named_tokens)
    tokenizer = _load(files, template, trust_remote_code)
    if special_tokens == "tokens":
        tokenizer.literals = Literals({})
    return tokenizer


def _load(files: TokenizerFiles, template: ChatTemplate | None, trust_remote_code: bool) -> Tokenizer:
    model: Path | None = files.model
    if model is None:
        from .transformers import TransformersTokenizer

        return TransformersTokenizer(files, template, trust_remote_code=trust_remote_code)
    if model.suffix == ".json":
        from .huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer(files, template)
    if is_tiktoken(model):
        from .tiktoken import TiktokenTokenizer

        return TiktokenTokenizer(files, template)
    if model.suffix == ".model":
        from .sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(files, template)
    raise DataError(
        f"{model} is no tokenizer; accepted: tokenizer.json, tokenizer.model (sentencepiece or tiktoken), NAME.tiktoken"
    )
