"""Tokenizers that only transformers can read (vocab.json and merges.txt, vocab.txt, code shipped with a model).

transformers may load a framework; the other tokenizers of this folder never do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from .chat_template import ChatTemplate, render
from .tokenizer_files import TokenizerFiles


class TransformersTokenizer:
    """An ``AutoTokenizer`` behind the protocol."""

    def __init__(self, files: TokenizerFiles, template: ChatTemplate | None, *, trust_remote_code: bool) -> None:
        """Raises DataError if transformers cannot read the folder or there is no end token."""
        from transformers import AutoTokenizer

        try:
            self._auto: Any = AutoTokenizer.from_pretrained(str(files.folder), trust_remote_code=trust_remote_code)
        except Exception as error:  # transformers raises whatever the format's reader raises
            raise DataError(f"transformers cannot read the tokenizer of {files.name}: {error}") from error
        self.vocab_size = max(self._auto.get_vocab().values(), default=-1) + 1
        auto_eos = self._auto.eos_token_id
        self.eos_ids = files.end_tokens(self._id, self.vocab_size, *([] if auto_eos is None else [auto_eos]))
        self.pad_id = self.eos_ids[0] if self._auto.pad_token_id is None else int(self._auto.pad_token_id)
        plain, full = (list(self._auto.encode("a", add_special_tokens=added)) for added in (False, True))
        start = next((at for at in range(len(full)) if full[at : at + len(plain)] == plain), 0)
        self.prefix_ids: tuple[int, ...] = tuple(full[:start])
        self.has_chat_template = template is not None
        self._template = template
        self._name, self.folder = files.name, files.folder

    def encode(self, text: str) -> list[int]:
        return list(self._auto.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(token) for token in ids if 0 <= token < self.vocab_size]
        return str(self._auto.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        return str(self._auto.decode([int(token)])) if 0 <= token < self.vocab_size else ""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        return render(self._template, messages, self._name, generation_prompt=generation_prompt, variables=variables)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return self.encode(self.render(messages, generation_prompt=generation_prompt, variables=variables))

    def _id(self, text: str) -> int | None:
        token = self._auto.get_vocab().get(text)
        return None if token is None else int(token)
