"""A complete model folder for what MindRLHF names a model by.

That is a Hugging Face folder, or MindSpore's weights with a YAML of sizes and a tokenizer elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError, did_you_mean
from ...model_files.folder import TOKENIZER_FILES, copy_files
from .conversion import to_folder
from .keys import keys, plain_yaml
from .weight_names import weight_names

# Text is split at these pieces before merging, in the notation of the tokenizers library (Qwen2's tokenizer.json).
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


ROPE = 10000  # base of rotary positions that rope_ratio multiplies
MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)


def model_folder(source: str, into: Path, *, shape: Mapping[str, Any] | None, tokenizer: str | None) -> str:
    """Return the folder to train from: the source itself where it is complete, else a folder made in ``into``.

    Args:
        shape: ``model.model_config`` of a YAML, for weights without config.json.
        tokenizer: folder of tokenizer files (or of vocab.json and merges.txt), where the model has none.

    Raises:
        ConfigError: no sizes for weights that need them, or no tokenizer.
        CheckpointError: weights that do not fit the sizes.
    """
    place = Path(source)
    if not place.exists():
        return source  # a hub id, or nothing: the backend's own message
    convert = None
    if not (place / "config.json").is_file():
        if shape is None:
            raise ConfigError(f"{source} has no config.json; sizes come from the model's YAML (model.model_config)")
        config = architecture(shape)
        convert = lambda folder: to_folder(place, folder, weight_names(), config)  # noqa: E731
    tokenizers = [Path(tokenizer)] if tokenizer else [place.parent if place.is_file() else place]
    return str(complete(place, into / "model", convert, tokenizers))


def architecture(shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config.json`` for sizes under MindFormers' names.

    Raises:
        ConfigError: an unknown family or key.
    """
    check_shape(shape)
    table, kind = keys(), str(shape.get("type", "LlamaConfig"))
    if kind not in table["families"]:
        known = table["families"]
        raise ConfigError(f"model.model_config.type {kind!r} is unknown{did_you_mean(kind, known)}; {', '.join(known)}")
    family = table["families"][kind]
    if family == "llama" and shape.get("qkv_has_bias"):
        family = "qwen2"
    flat = {**shape, **(shape.get("moe_config") or {})}
    sizes = {table["shape"][key]: value for key, value in flat.items() if key in table["shape"] and value is not None}
    if "eos_token_id" in sizes:
        sizes.setdefault("bos_token_id", None)
    if shape.get("rope_ratio"):
        sizes["rope_theta"] = ROPE * shape["rope_ratio"]
    if family == "llama" and "intermediate_size" not in sizes and "hidden_size" in sizes:
        sizes["intermediate_size"] = llama_inner(sizes["hidden_size"], shape)
    return {"model_type": family, **table["family_settings"][family], **sizes}


def llama_inner(hidden: int, shape: Mapping[str, Any]) -> int:
    """Return the inner width that MindFormers gives a Llama whose file names none: two thirds of 4 hidden, rounded up."""
    multiple, factor = shape.get("multiple_of") or 256, shape.get("ffn_dim_multiplier")
    wide = 4 * hidden if factor is None else int((factor + 0.01) * 4 * hidden)
    return -(-int(2 * wide / 3) // multiple) * multiple


def check_shape(shape: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown key of a model's section."""
    known = [*keys()["shape"], *keys()["shape_unused"]]
    for key in shape:
        if key not in known:
            raise ConfigError(f"model.model_config.{key} is unknown{did_you_mean(str(key), known)}")


def shape_of(path: str | None) -> dict[str, Any] | None:
    """Return ``model.model_config`` of a model's YAML; None where there is no such file."""
    if not path or not Path(path).is_file():
        return None
    values, _ = plain_yaml(Path(path).read_text(encoding="utf-8"), path)
    section = values.get("model", {}).get("model_config")
    if not isinstance(section, dict):
        raise ConfigError(f"{path} has no section model.model_config")
    experts = values.get("moe_config") if str(section.get("type")).startswith("Deepseek") else None
    return {**section, "moe_config": {**experts, **(section.get("moe_config") or {})}} if experts else section


def complete(source: Path, made: Path, write: Callable[[Path], object] | None, tokenizers: Sequence[Path]) -> Path:
    """Return the source where it is a complete model folder, else ``made``, written once by whichever rank is first.

    Args:
        write: fills a folder with weights and config.json; None: the source has them.
        tokenizers: folders to look for tokenizer files in.

    Raises:
        ConfigError: no folder has a tokenizer.
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
    """Return whether a folder holds a tokenizer."""
    named = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return named or any(folder.glob("*.tiktoken"))


def add_tokenizer(folder: Path, places: Sequence[Path]) -> None:
    """Copy tokenizer files into a model folder; vocab.json and merges.txt become tokenizer.json.

    Raises:
        ConfigError: there are none.
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


def write_tokenizer(vocabulary: Path, merges: Path, folder: Path, *, end: str = SPECIAL[0]) -> None:
    """Write ``tokenizer.json`` (byte-level BPE as Qwen2 has it) from ``vocab.json`` and ``merges.txt``.

    ``tokenizer_config.json`` is written where it is missing. Special tokens that the vocabulary lacks get the next ids.

    Raises:
        DataError: the files are not a vocabulary with merges.
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
