"""A model folder without loading it: its place, its config.json, and the headers of its safetensors files.

A safetensors file starts with 8 bytes (little-endian length), then JSON: name -> dtype, shape, offsets
into the data that follows (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ..errors import ConfigError, from_here
from .checkpoint_folders import is_adapter, policy_folder

POINTER = b"version https://git-lfs"  # the first bytes of a file that a clone without Git LFS has instead of weights
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
MAX_HEADER = 100_000_000  # bytes, the format's own limit
DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

SCALES = "_scale_inv"  # ending of the name that the block scales of an 8-bit weight have (DeepSeek-V3)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # of models that read images

TOKENIZER_FILES = (
    "tokenizer*", "*.model", "*.tiktoken", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "generation_config.json", *PROCESSOR_FILES, "video_preprocessor_config.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: dtype by safetensors' name, shape, and the byte range ``start:end`` in the file.

    Attributes:
        scales: of an 8-bit weight, the factors of its blocks, in the same file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    scales: TensorInfo | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def find_folder(path: str) -> Path:
    """Find the folder of a model: a local one, or a hub id's in the cache (its config.json is fetched if need be).

    A run stands for its newest checkpoint, a checkpoint for its policy, a LoRA adapter for the model that it makes of
    its base (``merged.py``).

    Raises:
        ConfigError: neither exists, the folder has no config.json or no weights, or a file of them is cut off.
    """
    from .merged import adapter_of, merged_folder  # which looks for the base here

    folder = Path(path).expanduser()
    adapter = adapter_of(folder)
    if adapter is not None:
        return merged_folder(adapter)
    if folder.is_dir():
        folder = policy_folder(folder)
        if is_adapter(folder):
            return merged_folder(folder)
        _check_folder(path, folder)
        return folder
    if folder.exists():
        raise ConfigError(f"{path!r} is a file; accepted: the folder of a Hugging Face causal LM, or a hub id")
    if not is_hub_id(path):
        raise ConfigError(
            f"there is no folder {path!r}{_nearest(folder)}{from_here(folder)}; accepted: a model folder, a run, or a "
            "hub id (owner/name)"
        )
    return _from_hub(path)


def loadable(path: str) -> str:
    """The path as other libraries can load it: the folder of :func:`find_folder` for a local one, a hub id as it is."""
    return path if is_hub_id(path) and not Path(path).exists() else str(find_folder(path))


def is_hub_id(path: str) -> bool:
    """True for a path that can be ``owner/name``: plain words, the first of which is no folder here."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", path):
        return False
    return not ("/" in path and Path(path).parent.is_dir())


def read_model_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder; raises ConfigError if it is broken."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no JSON object")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model; with an index, the files it names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of a safetensors file by name; block scales with the weights they belong to.

    Raises:
        ConfigError: the file is missing, cut off or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise ConfigError(f"{path} is no safetensors file, or is cut off ({size} bytes); download it again")
            header = json.loads(file.read(length))
        first = 8 + length
        tensors = {
            name: TensorInfo(info["dtype"], tuple(info["shape"]), *(first + offset for offset in info["data_offsets"]))
            for name, info in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as safetensors: {error}") from None
    if any(tensor.end > size for tensor in tensors.values()):
        whole = max(tensor.end for tensor in tensors.values())
        raise ConfigError(f"{path} is cut off: it has {size} of {whole} bytes; download it again")
    scales = {name: tensors.pop(f"{name}{SCALES}") for name in list(tensors) if f"{name}{SCALES}" in tensors}
    return tensors | {name: replace(tensors[name], scales=scale) for name, scale in scales.items()}


def check_complete(path: Path) -> None:
    """Check that a safetensors file is there to its last byte, from its header and its size.

    Raises:
        ConfigError: it is not; the text gives both sizes.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing, but the index of the model names it; download it again")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ConfigError(f"{path} is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it")
    read_header(path)


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """All tensors of a model folder by name; offsets are those of each tensor's own file."""
    return {name: info for file in weight_files(folder) for name, info in read_header(file).items()}


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Weight name -> shape of a model folder."""
    return {name: info.shape for name, info in read_headers(folder).items()}


def embedding_rows(folder: Path) -> int | None:
    """Tokens that a model has an embedding for, by its weights, else by config.json; None where neither says it."""
    for name, shape in read_shapes(folder).items():
        if name.endswith(EMBEDDINGS) and len(shape) == 2:
            return shape[0]
    config = read_model_config(folder)
    inner = config.get("text_config")
    size = (inner if isinstance(inner, dict) else config).get("vocab_size")
    return size if isinstance(size, int) else None


def _check_folder(path: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{path!r} has no config.json; accepted: the folder of a Hugging Face causal LM, a run or a checkpoint"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = " (the .bin files there are pickles, which are not read)" if any(folder.glob("*.bin")) else ""
        raise ConfigError(f"{path!r} has no weights: no *.safetensors{pickled}")
    for file in weight_files(folder):
        check_complete(file)


def _nearest(folder: Path) -> str:
    siblings = [other for other in folder.parent.iterdir() if other.is_dir()] if folder.parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, [other.name for other in siblings], n=1)
    return f" (did you mean {str(folder.parent / near[0])!r}?)" if near else ""


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return Path(cached).parent
    missing = f"{name!r} is no folder here, nor a model in the hub's cache, and "
    if constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT):
        raise ConfigError(f"{missing}{constants.ENDPOINT} cannot be reached")
    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except Exception as error:  # the hub client raises many kinds, its network layer more
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(f"{missing}the hub did not give it ({type(error).__name__}: {reason[:160]})") from None


def _reachable(endpoint: str) -> bool:
    """True if a connection can be opened. The hub client itself would retry for half a minute."""
    if getproxies():
        return True
    address = urlsplit(endpoint)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=5):
            return True
    except OSError:
        return False


def as_readable(files: Iterable[Path]) -> None:
    """Give files the rights that the process gives to new ones: safetensors keeps its files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in files:
        file.chmod(0o666 & ~mask)


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the matching files of a folder that the target does not have yet."""
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
