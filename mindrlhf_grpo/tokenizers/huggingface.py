"""Tokenizers in tokenizer.json, through the ``tokenizers`` library as in transformers, without loading a framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from ..errors import DataError
from .chat_template import ChatTemplate, render
from .tokenizer_files import TokenizerFiles


class HuggingFaceTokenizer:
    """A tokenizer.json with the end tokens and the chat template of its folder."""

    def __init__(self, files: TokenizerFiles, template: ChatTemplate | None) -> None:
        """Raises DataError if the file is broken, added tokens contradict it, or there is no end token."""
        self._fast = _read(files)
        vocabulary = self._fast.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.eos_ids = files.end_tokens(self._fast.token_to_id, self.vocab_size)
        self.pad_id = files.padding(self._fast.token_to_id, self.eos_ids[0])
        self.has_chat_template = template is not None
        self._template = template
        self._name, self.folder = files.name, files.folder
        self._added = {token: added.content for token, added in self._fast.get_added_tokens_decoder().items()}
        self.prefix_ids = files.prefix(self._fast.token_to_id, _added_before_text(self._fast))
        self._anchor = self._fast.encode("a", add_special_tokens=False).ids[-1:]

    def encode(self, text: str) -> list[int]:
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


def _added_before_text(fast: FastTokenizer) -> tuple[int, ...]:
    """Return the ids that the file's post-processor puts before a text."""
    plain, full = (list(fast.encode("a", add_special_tokens=added).ids) for added in (False, True))
    extra = len(full) - len(plain)
    start = next((at for at in range(extra + 1) if full[at : at + len(plain)] == plain), 0)
    return tuple(full[:start])


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
