"""Tokenizers in sentencepiece's ``tokenizer.model``, as in Llama 2: control tokens are recognised, bytes joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from .chat_template import ChatTemplate
from .literals import Literals, control_tokens, unmarked
from .special_tokens import SpecialTokens
from .templated import TemplatedTokenizer
from .tokenizer_files import TokenizerFiles

SPACE = "\u2581"


class SentencePieceTokenizer(TemplatedTokenizer):
    """A sentencepiece model with the added tokens and the chat template of its folder, if there are any.

    Text between two special tokens is encoded separately, as Llama 2's reference encodes each turn.
    """

    def __init__(self, files: TokenizerFiles, template: ChatTemplate | None) -> None:
        """Raises DataError if the package is missing, the file is broken, or there is no end token."""
        super().__init__(files.name, files.folder, template)
        self._model = _read(files)
        size = int(self._model.get_piece_size())
        control = {
            self._model.id_to_piece(i): i for i in range(size) if self._model.is_control(i) or self._model.is_unknown(i)
        }
        added = {text: token for token, (text, _) in files.added_tokens.items()}
        self._special = SpecialTokens({**control, **added})
        self._size = size
        self.vocab_size = max(size, max(added.values(), default=-1) + 1)
        model_eos = self._model.eos_id()
        self.eos_ids = files.end_tokens(self._id, self.vocab_size, *([model_eos] if model_eos >= 0 else []))
        model_pad = self._model.pad_id()
        self.pad_id = files.padding(self._id, model_pad if model_pad >= 0 else self.eos_ids[0])
        bos = self._model.bos_id()  # Llama's and Gemma's code puts it before a text unless the folder forbids it
        self.prefix_ids = files.prefix(self._id, (bos,) if bos >= 0 else ())
        by_text = {text: (token, True) for text, token in control.items()}
        by_text |= {text: (token, special) for token, (text, special) in files.added_tokens.items()}
        named = files.named(self._id, *self.eos_ids, *self.prefix_ids, bos)
        self.literals = Literals(control_tokens(by_text, named))
        hidden = {token for token, (_, special) in files.added_tokens.items() if special}
        self._shown = {token: text for text, token in added.items() if token not in hidden and token >= size}

    def encode_marked(self, text: str) -> list[int]:
        return self._special.encode(text, lambda plain: list(self._model.encode(unmarked(plain))))

    def decode(self, ids: Sequence[int]) -> str:
        parts: list[str] = []
        plain: list[int] = []
        for token in [*(int(token) for token in ids), -1]:
            if 0 <= token < self._size:
                plain.append(token)
            elif token in self._shown or token == -1:
                parts += [self._decode_plain(plain), self._shown.get(token, "")]
                plain = []
        return "".join(parts)

    def piece(self, token: int) -> str:
        token = int(token)
        if token in self._special.texts:
            return self._special.texts[token]
        if not 0 <= token < self._size:
            return ""
        if self._model.is_byte(token):
            return bytes([int(self._model.id_to_piece(token)[3:-1], 16)]).decode("utf-8", "replace")
        return str(self._model.id_to_piece(token)).replace(SPACE, " ")

    def _decode_plain(self, ids: list[int]) -> str:
        # Control tokens decode to nothing; the unknown token would decode to a mark that is not text.
        return str(self._model.decode([token for token in ids if not self._model.is_unknown(token)]))

    def _id(self, text: str) -> int | None:
        if text in self._special.ids:
            return self._special.ids[text]
        token = int(self._model.piece_to_id(text))
        return None if token == self._model.unk_id() else token


def _read(files: TokenizerFiles) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise DataError(f"{files.model} needs sentencepiece: pip install 'mindrlhf-grpo[tokenizers]'") from error
    try:
        return SentencePieceProcessor(model_file=str(files.model))
    except (RuntimeError, OSError) as error:
        raise DataError(f"{files.model} is neither a sentencepiece model nor a tiktoken file: {error}") from error
