"""``tokenizer.json`` of a ``vocab.json`` with a ``merges.txt``: byte-level BPE as Qwen2 and its successors have it."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import DataError

# What a token may not reach across, in the notation of the tokenizers library (Qwen2's tokenizer.json).
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_tokenizer(vocabulary: Path, merges: Path, folder: Path, *, end: str = SPECIAL[0]) -> None:
    """Write ``tokenizer.json`` and, where it is missing, ``tokenizer_config.json``.

    Special tokens that the vocabulary lacks get the next ids.

    Raises:
        DataError: files that are no vocabulary or merges.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{vocabulary} and {merges} are no byte-level vocabulary with merges: {error}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        named = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": end, "pad_token": SPECIAL[0]}
        settings.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
