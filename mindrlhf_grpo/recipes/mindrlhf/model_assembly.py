"""A complete model folder of parts: weights here, a tokenizer there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import ConfigError
from ...model_files.folder import TOKENIZER_FILES, copy_files
from .byte_pairs import write_tokenizer

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)


def complete(source: Path, made: Path, write: Callable[[Path], object] | None, tokenizers: Sequence[Path]) -> Path:
    """The source itself where it is a whole model folder, else ``made``, written once whoever of the ranks is first.

    Args:
        write: fills a folder with weights and config.json; None: the source has them.
        tokenizers: where tokenizer files are looked for.

    Raises:
        ConfigError: no tokenizer in any place.
    """
    if write is None and has_tokenizer(source):
        return source
    if made.is_dir():
        return made
    partial = made.with_name(f".{made.name}-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        if write is None:
            copy_files(source, partial, MODEL_FILES)
        else:
            write(partial)
        add_tokenizer(partial, tokenizers)
        partial.rename(made)
    except OSError:
        if not made.is_dir():  # else another rank was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder can tell how text becomes tokens."""
    named = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return named or any(folder.glob("*.tiktoken"))


def add_tokenizer(folder: Path, places: Sequence[Path]) -> None:
    """Bring tokenizer files into a model folder; vocab.json and merges.txt become tokenizer.json.

    Raises:
        ConfigError: none are found.
    """
    for place in places:
        if not has_tokenizer(folder):
            copy_files(place, folder, TOKENIZER_FILES)
    if not has_tokenizer(folder) and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        write_tokenizer(folder / "vocab.json", folder / "merges.txt", folder)
    if not has_tokenizer(folder):
        raise ConfigError(
            f"no tokenizer in {', '.join(map(str, places))}; name a folder with tokenizer.json, or vocab.json and merges.txt"
        )
