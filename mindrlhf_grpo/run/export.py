"""Export of a run's or checkpoint's policy as a plain Hugging Face folder, LoRA adapters merged on request."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model_files.folder import TOKENIZER_FILES, copy_files, find_folder
from ..model_files.lora import merge_adapter
from . import checkpoint

ADAPTER = "adapter_config.json"


def find_policy(path: Path) -> Path:
    """Find the model folder of a run (its newest checkpoint), of a checkpoint, or the folder itself.

    Raises:
        CheckpointError: there is none; the text lists the places that were searched.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"there is no folder {str(path)!r}; accepted: a run, a checkpoint (RUN/checkpoints/step_N)"
        )
    if (path / "config.json").is_file() or (path / ADAPTER).is_file():
        return path
    if (path / "policy").is_dir():
        checkpoint.verify(path)
        return path / "policy"
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = checkpoint.steps(root)
    if not steps:
        raise CheckpointError(
            f"{str(path)!r} has no complete checkpoint; looked for checkpoints/step_N, policy, config.json"
        )
    newest = root / f"{checkpoint.PREFIX}{steps[-1]}"
    checkpoint.verify(newest)
    return newest / "policy"


def export(source: Path, out: Path, *, merge: bool = False, base: str | None = None) -> dict[str, Any]:
    """Write the policy of a run or checkpoint to a new folder ``out``; returns a description of it.

    With ``merge`` the adapter of a LoRA run is merged into its base weights; a full model is the same either way.
    ``base`` overrides the base model that the adapter names.

    Raises:
        CheckpointError: nothing to export, a corrupt checkpoint, or ``out`` is not empty.
    """
    policy = find_policy(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{str(out)!r} is there already and not empty; name a new folder")
    adapter = (policy / ADAPTER).is_file()
    partial = out.with_name(f".writing-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if adapter and merge:
        merge_adapter(policy, base_folder(policy) if base is None else find_folder(base), partial)
        copy_files(policy, partial, TOKENIZER_FILES)
    else:
        copy_files(policy, partial, ("*",))
    for file in partial.rglob("*"):
        checkpoint.flush(file)
    if out.exists():
        out.rmdir()
    os.rename(partial, out)
    kind = "adapter" if adapter and not merge else "model"
    return {"from": str(policy), "to": str(out), "kind": kind, "merged": adapter and merge}


def merged_model(folder: Path, out: Path, *, base: str | None = None, main: bool = True) -> Path:
    """A folder to train from: ``folder`` itself, or for an adapter the merged model, written to ``out`` once.

    Without merging, the reference policy of another LoRA run would be the raw base. ``main`` writes, other processes wait.
    """
    if not (folder / ADAPTER).is_file():
        return folder
    if main and not out.exists():
        export(folder, out, merge=True, base=base)
    while not out.exists():
        time.sleep(0.5)
    return out


def base_folder(policy: Path) -> Path:
    """The folder of the model that an adapter was trained on."""
    name = json.loads((policy / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise CheckpointError(f"{policy / ADAPTER} does not say which model it belongs to (base_model_name_or_path)")
    return find_folder(str(name))
