"""Tokenizers in tokenizer.json, through the ``tokenizers`` library as in transformers, without loading a framework."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property

from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as FastTokenizer

from ..errors import DataError
from .chat_template import ChatTemplate
from .literals import MARK, Literals, control_tokens
from .templated import TemplatedTokenizer, ids_before
from .tokenizer_files import TokenizerFiles

STANDINS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # for the mark, which UTF-8 cannot write


class HuggingFaceTokenizer(TemplatedTokenizer):
    """A tokenizer.json with the end tokens and the chat template of its folder."""

    def __init__(self, files: TokenizerFiles, template: ChatTemplate | None) -> None:
        """Raises DataError if the file is broken, added tokens contradict it, or there is no end token."""
        super().__init__(files.name, files.folder, template)
        self._fast = _read(files)
        vocabulary = self._fast.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.eos_ids = files.end_tokens(self._fast.token_to_id, self.vocab_size)
        self.pad_id = files.padding(self._fast.token_to_id, self.eos_ids[0])
        added = self._fast.get_added_tokens_decoder()
        self._added = {token: added_token.content for token, added_token in added.items()}
        own = ids_before(lambda text, special: self._fast.encode(text, add_special_tokens=special).ids)
        self.prefix_ids = files.prefix(self._fast.token_to_id, own)
        by_text = {entry.content: (token, entry.special) for token, entry in added.items()}
        self.literals = Literals(control_tokens(by_text, files.named(self._fast.token_to_id, *self.eos_ids)))
        self._marked = MarkedText(self._fast, self.literals.ids)
        self._anchor = self._fast.encode("a", add_special_tokens=False).ids[-1:]

    def encode_marked(self, text: str) -> list[int]:
        if MARK in text:
            return self._marked.encode(text)
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode([int(token) for token in ids], skip_special_tokens=True))

    def piece(self, token: int) -> str:
        token = int(token)
        if token in self._added:
            return self._added[token]
        # Decoders treat the first token differently (they strip its space), so a token is decoded after another one.
        before = self._fast.decode(self._anchor, skip_special_tokens=False)
        both = self._fast.decode([*self._anchor, token], skip_special_tokens=False)
        return str(both[len(before) :])


class MarkedText:
    """Encodes text with marked special tokens by the rules of a tokenizer, which keeps its own.

    Added tokens are found before a text is normalised: the copy's normaliser first takes out the marks.
    """

    def __init__(self, fast: FastTokenizer, control: Iterable[str]) -> None:
        self._fast, self._control = fast, set(control)

    def encode(self, text: str) -> list[int]:
        mark = next((mark for mark in STANDINS if mark not in text), None)
        if mark is None:
            raise DataError("a text has special tokens and all code points that are no characters, U+FDD0 to U+FDEF")
        own = self._fast.normalizer
        without_mark = normalizers.Replace(mark, "")
        self._copy.normalizer = normalizers.Sequence([without_mark, own] if own is not None else [without_mark])
        return list(self._copy.encode(text.replace(MARK, mark), add_special_tokens=False).ids)

    @cached_property
    def _copy(self) -> FastTokenizer:
        described = json.loads(self._fast.to_str())
        for token in described["added_tokens"]:
            token["normalized"] &= token["content"] not in self._control
        return FastTokenizer.from_str(json.dumps(described))


def _read(files: TokenizerFiles) -> FastTokenizer:
    try:
        fast = FastTokenizer.from_file(str(files.model))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{files.model} is broken: {error}") from error
    # Some files carry truncation settings of a training script; only data.overlong cuts prompts here.
    fast.no_truncation()
    fast.no_padding()
    for token, (text, special) in sorted(files.added_tokens.items()):
        if fast.token_to_id(text) is None:
            fast.add_tokens([AddedToken(text, special=special, normalized=False)])
        if fast.token_to_id(text) != token:
            raise DataError(
                f"{files.name}: tokenizer_config.json gives {text!r} the id {token}, tokenizer.json {fast.token_to_id(text)}"
            )
    return fast
