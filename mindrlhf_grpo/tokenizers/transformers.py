"""Tokenizers that only transformers can read (vocab.json and merges.txt, vocab.txt, code shipped with a model).

transformers may load a framework; the other tokenizers of this folder never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from .chat_template import ChatTemplate
from .huggingface import MarkedText
from .literals import MARK, Literals, control_tokens, unmarked
from .templated import TemplatedTokenizer, ids_before
from .tokenizer_files import TokenizerFiles


class TransformersTokenizer(TemplatedTokenizer):
    """An ``AutoTokenizer`` behind the protocol."""

    def __init__(self, files: TokenizerFiles, template: ChatTemplate | None, *, trust_remote_code: bool) -> None:
        """Raises DataError if transformers cannot read the folder or there is no end token."""
        super().__init__(files.name, files.folder, template)
        from transformers import AutoTokenizer

        try:
            self._auto: Any = AutoTokenizer.from_pretrained(str(files.folder), trust_remote_code=trust_remote_code)
        except Exception as error:  # transformers raises whatever the format's reader raises
            raise DataError(f"transformers cannot read the tokenizer of {files.name}: {error}") from error
        self.vocab_size = max(self._auto.get_vocab().values(), default=-1) + 1
        auto_eos = self._auto.eos_token_id
        self.eos_ids = files.end_tokens(self._id, self.vocab_size, *([] if auto_eos is None else [auto_eos]))
        self.pad_id = self.eos_ids[0] if self._auto.pad_token_id is None else int(self._auto.pad_token_id)
        self.prefix_ids = ids_before(lambda text, special: self._auto.encode(text, add_special_tokens=special))
        by_text = {entry.content: (token, entry.special) for token, entry in self._auto.added_tokens_decoder.items()}
        self.literals = Literals(control_tokens(by_text, files.named(self._id, *self.eos_ids)))
        fast = getattr(self._auto, "backend_tokenizer", None)  # slow tokenizers have none
        self._marked = MarkedText(fast, self.literals.ids) if fast is not None else None

    def encode_marked(self, text: str) -> list[int]:
        if MARK in text and self._marked is not None:
            return self._marked.encode(text)
        return list(self._auto.encode(unmarked(text), add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(token) for token in ids if 0 <= token < self.vocab_size]
        return str(self._auto.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        return str(self._auto.decode([int(token)])) if 0 <= token < self.vocab_size else ""

    def _id(self, text: str) -> int | None:
        token = self._auto.get_vocab().get(text)
        return None if token is None else int(token)
