"""Checkpoints: a folder is complete or it does not exist.

``RUN/checkpoints/step_N`` holds ``policy/`` (Hugging Face layout), ``optimizer/``, ``trainer_state.json`` and
``manifest.json`` (size and SHA-256 of every file). It is written under a hidden name, flushed to disk and renamed; it is
removed by renaming first. So a folder named ``step_N`` is complete at whatever moment a run is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
PREFIX = "step_"


def save(root: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Write ``root/step_N`` atomically; ``write(folder)`` fills ``policy/``, ``optimizer/`` and its other folders."""
    final = root / f"{PREFIX}{step}"
    if final.exists():  # exact resume makes the same step again bit for bit: the saved one stays
        return final
    partial = root / f".writing-{PREFIX}{step}"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "policy").mkdir(parents=True)
    (partial / "optimizer").mkdir()
    write(partial)
    (partial / STATE).write_text(json.dumps(state, indent=1))
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(partial)): [path.stat().st_size, digest(path)] for path in files}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    folders = [path for path in partial.rglob("*") if path.is_dir()]
    for path in [*files, partial / MANIFEST, *folders, partial]:
        flush(path)
    os.rename(partial, final)
    flush(root)
    return final


def steps(root: Path) -> list[int]:
    """Steps that have a complete checkpoint, oldest first."""
    if not root.is_dir():
        return []
    names = [path.name[len(PREFIX) :] for path in root.iterdir() if path.name.startswith(PREFIX)]
    return sorted(int(name) for name in names if name.isdigit())


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: a file is missing or changed; the text names it and the remedy.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read ({error}); {REMEDY.format(folder=folder)}") from None
    for name, (size, sha) in manifest.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; {REMEDY.format(folder=folder)}")
        if path.stat().st_size != size or digest(path) != sha:
            raise CheckpointError(f"{path} is corrupt: it differs from the manifest; {REMEDY.format(folder=folder)}")


REMEDY = "delete the folder {folder} to go on from the checkpoint before it"


def load_state(folder: Path) -> dict[str, Any]:
    """Verify a checkpoint and read its trainer state."""
    verify(folder)
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def prune(root: Path, *, keep_last: int, protected: Collection[int]) -> None:
    """Remove all but the newest ``keep_last`` checkpoints (0: remove none) and the protected steps."""
    remaining = set(protected) | set(steps(root)[-keep_last:] if keep_last else steps(root))
    for step in steps(root):
        if step not in remaining:
            remove(root / f"{PREFIX}{step}")


def clean(root: Path) -> None:
    """Delete the leftovers of an interrupted save or removal."""
    if root.is_dir():
        for path in root.iterdir():
            if path.name.startswith((".writing-", ".removing-")):
                shutil.rmtree(path, ignore_errors=True)


def remove(folder: Path) -> None:
    """Rename, then delete: a half-deleted folder never carries a checkpoint's name."""
    doomed = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
        return sha.hexdigest()


def flush(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
