"""A LoRA adapter as a model: merged over its base into a folder beside it, once, on first use.

Every command and both backends then read a plain model folder. ``ADAPTER.merged`` lives in the checkpoint that holds
the adapter and goes with it; it may be deleted and is made again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from .checkpoint_folders import ADAPTER, is_adapter
from .folder import TOKENIZER_FILES, copy_files, find_folder
from .lora import merge_adapter

SUFFIX, STAMP = ".merged", "merged_from.json"
MADE_OF = (ADAPTER, "adapter_model.safetensors")


def merged_folder(adapter: Path) -> Path:
    """The model that an adapter makes of its base; made on first use, and again when the adapter has changed.

    Raises:
        UserError: the base is not found, is of another model, or the place beside the adapter cannot be written.
    """
    out = adapter.with_name(adapter.name + SUFFIX)
    stamp = stamp_of(adapter)
    if is_current(out, stamp):
        return out
    try:
        with locked(out.with_name(f".{out.name}.lock")):
            if not is_current(out, stamp):  # another process may have made it while this one waited
                write_merged(adapter, out, stamp)
    except OSError as error:
        raise ConfigError(
            f"the LoRA adapter {str(adapter)!r} cannot be merged into {str(out)!r} ({error.strerror or error}); "
            f"elsewhere: mindrlhf-grpo export {adapter} OUT --merge"
        ) from None
    return out


def write_merged(adapter: Path, out: Path, stamp: dict[str, list[int]]) -> None:
    """Merge under a hidden name, then rename."""
    partial = out.with_name(f".writing-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        merge_adapter(adapter, base_folder(adapter), partial)
        copy_files(adapter, partial, TOKENIZER_FILES)
        (partial / STAMP).write_text(json.dumps(stamp))
        shutil.rmtree(out, ignore_errors=True)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def base_folder(adapter: Path) -> Path:
    """The folder of the model that an adapter was trained on, itself merged if that is an adapter."""
    name = json.loads((adapter / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise CheckpointError(f"{adapter / ADAPTER} does not say which model it belongs to (base_model_name_or_path)")
    try:
        return find_folder(str(name))
    except ConfigError as error:
        raise ConfigError(f"the base model of the LoRA adapter {str(adapter)!r}: {error}") from None


def adapter_of(path: Path) -> Path | None:
    """The adapter whose merged folder a path names, also when that was deleted; None for other paths."""
    adapter = path.with_name(path.name.removesuffix(SUFFIX)) if path.name.endswith(SUFFIX) else path
    return adapter if adapter != path and is_adapter(adapter) else None


def stamp_of(adapter: Path) -> dict[str, list[int]]:
    """Size and time of an adapter's files: other ones make another model."""
    try:
        found = {name: (adapter / name).stat() for name in MADE_OF}
    except FileNotFoundError as error:
        raise ConfigError(f"{str(adapter)!r} is no LoRA adapter: there is no {error.filename}") from None
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def is_current(out: Path, stamp: dict[str, list[int]]) -> bool:
    """True if the merged folder is there and made of these files."""
    try:
        return bool(json.loads((out / STAMP).read_text()) == stamp)
    except (OSError, ValueError):
        return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the other processes of a run wait for."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
