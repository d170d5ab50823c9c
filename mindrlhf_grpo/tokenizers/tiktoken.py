"""Tokenizers in tiktoken files: ``qwen.tiktoken`` of Qwen 1 and ``tokenizer.model`` of GLM 4, lines of ``base64 rank``.

The file holds ranks only. The pre-tokenisation pattern and the special tokens are published with each family and
written here.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .chat_template import ChatTemplate
from .literals import Literals, control_tokens, unmarked
from .special_tokens import SpecialTokens
from .templated import TemplatedTokenizer
from .tokenizer_files import TokenizerFiles

# Contractions | a word with one leading mark | digits | punctuation with its line ends | line ends | spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Family:
    """Facts of a model family that its tiktoken file omits: pre-tokenisation, special tokens in id order, end tokens."""

    pattern: str
    special: tuple[str, ...]
    ends: tuple[str, ...]
    normal_form: bool = False  # text is brought to Unicode NFC first


QWEN = Family(
    pattern=PATTERN.format(digits=""),
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
    ends=("<|im_end|>", "<|endoftext|>"),
    normal_form=True,
)
GLM4 = Family(
    pattern=PATTERN.format(digits="{1,3}"),
    special=(
        "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
        "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
        "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
    ),
    ends=("<|endoftext|>", "<|user|>", "<|observation|>"),
)  # fmt: skip


class TiktokenTokenizer(TemplatedTokenizer):
    """A tiktoken file with its family's special tokens, or with those that its folder lists.

    A file named ``*.tiktoken`` is read as Qwen's, any other as GLM 4's.
    """

    def __init__(self, files: TokenizerFiles, template: ChatTemplate | None) -> None:
        """Raises DataError if the package is missing or the file is broken; the text names the line."""
        super().__init__(files.name, files.folder, template)
        path = Path(str(files.model))
        self._family = QWEN if path.suffix == ".tiktoken" else GLM4
        ranks = read_ranks(path)
        family_tokens = {text: len(ranks) + i for i, text in enumerate(self._family.special)}
        special = {text: token for token, (text, _) in files.added_tokens.items()} or family_tokens
        self._texts = {token: text for text, token in special.items()}
        self._hidden = {token for text, token in special.items() if files.added_tokens.get(token, (text, True))[1]}
        self._ranks = len(ranks)
        self._encoding = _encoding(path, self._family.pattern, ranks, special)
        self.vocab_size = max(len(ranks), *(token + 1 for token in special.values()))
        known = [special[text] for text in self._family.ends if text in special]
        self.eos_ids = files.end_tokens(special.get, self.vocab_size, *known)
        self.pad_id = files.padding(special.get, special.get("<|endoftext|>", self.eos_ids[0]))
        self._special = SpecialTokens(special)
        by_text = {text: (token, token in self._hidden) for text, token in special.items()}
        self.literals = Literals(control_tokens(by_text, files.named(special.get, *self.eos_ids)))

    def encode_marked(self, text: str) -> list[int]:
        plain = unicodedata.normalize("NFC", text) if self._family.normal_form else text
        return self._special.encode(plain, lambda part: list(self._encoding.encode_ordinary(unmarked(part))))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(t) for t in ids if t not in self._hidden and (0 <= t < self._ranks or t in self._texts)]
        return str(self._encoding.decode(known, errors="replace"))

    def piece(self, token: int) -> str:
        token = int(token)
        if token in self._texts:
            return self._texts[token]
        if not 0 <= token < self._ranks:
            return ""
        raw: bytes = self._encoding.decode_single_token_bytes(token)
        return raw.decode("utf-8", "replace")


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the rank of each token's bytes from a tiktoken file; raises DataError naming a wrong line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{path}:{number}: not a line of 'base64 rank'") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or not ranks:
        raise DataError(f"{path}: {len(ranks)} ranks that are not 0..{len(ranks) - 1}: the file is cut off or damaged")
    return ranks


def _encoding(path: Path, pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> Any:
    try:
        from tiktoken import Encoding
    except ImportError as error:
        raise DataError(f"{path} needs tiktoken: pip install 'mindrlhf-grpo[tokenizers]'") from error
    return Encoding(path.stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
