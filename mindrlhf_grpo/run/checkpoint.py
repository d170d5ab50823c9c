"""Checkpoints: a folder is complete or it does not exist.

``RUN/checkpoints/step_N`` holds ``policy/`` (Hugging Face layout), ``optimizer/``, ``trainer_state.json`` and
``manifest.json`` (size and SHA-256 of every file); the links ``latest`` and ``best`` lead to one. It is written under a
hidden name, flushed to disk and renamed; it is removed by renaming first. So a folder named ``step_N`` is complete at
whatever moment a run is killed. What a disk then does to it is found by the manifest; ``newest`` goes back to the
checkpoint before it where the run allows that.
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
from ..model_files.checkpoint_folders import LATEST, PREFIX, STATE, steps
from ..model_files.folder import as_readable
from .shortages import os_error

MANIFEST = "manifest.json"


class Unwritten(Exception):
    """A checkpoint that the disk did not take.

    Attributes:
        error: the error of the library that wrote.
        written: bytes that had been written, which are removed again.
    """

    def __init__(self, error: Exception, written: int) -> None:
        super().__init__(str(error))
        self.error, self.written = error, written


def save(root: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Write ``root/step_N`` atomically; ``write(folder)`` fills ``policy/``, ``optimizer/`` and its other folders.

    Raises:
        Unwritten: a file could not be written. Nothing of the checkpoint stays, and other checkpoints are as before.
    """
    final = root / f"{PREFIX}{step}"
    if final.exists():  # exact resume makes the same step again bit for bit: the saved one stays
        return final
    partial = root / f".writing-{PREFIX}{step}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "policy").mkdir(parents=True)
        (partial / "optimizer").mkdir()
        (partial / STATE).write_text(json.dumps(state, indent=1))
        write(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        as_readable(files)
        manifest = {str(path.relative_to(partial)): [path.stat().st_size, digest(path)] for path in files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        folders = [path for path in partial.rglob("*") if path.is_dir()]
        for path in [*files, partial / MANIFEST, *folders, partial]:
            flush(path)
        os.rename(partial, final)
    except Exception as error:
        written = size(partial)
        shutil.rmtree(partial, ignore_errors=True)  # half a checkpoint must not keep a full disk full
        if os_error(error) is None:
            raise
        raise Unwritten(error, written) from error
    flush(root)
    return final


def step_of(folder: Path) -> int:
    """The step of a checkpoint."""
    return int(folder.name.removeprefix(PREFIX))


def identity(folder: Path) -> str:
    """What is the same for every process that sees this checkpoint: the digest of its manifest; empty if there is none."""
    path = folder / MANIFEST
    return digest(path) if path.is_file() else ""


def size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint: the first file that is missing or differs from the manifest; empty: it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = [(folder / name, int(expected), str(sha)) for name, (expected, sha) in manifest.items()]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{folder / MANIFEST} cannot be read ({error})"
    for path, expected, sha in files:
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != expected:
            return f"{path} is corrupt: it has {path.stat().st_size} bytes, not {expected}"
        if digest(path) != sha:
            return f"{path} is corrupt: it differs from the manifest"
    return ""


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: a file is missing or changed; the text names it and the newest whole checkpoint before it.
    """
    found = damage(folder)
    if found:
        whole = whole_before(folder)
        remedy = (
            f"the checkpoint before it, {whole}, is whole (--checkpoint {whole.name})"
            if whole
            else "no checkpoint before it is whole"
        )
        raise CheckpointError(f"{found}; {remedy}")


def whole_before(folder: Path) -> Path | None:
    """The newest checkpoint before this one that is whole."""
    number = folder.name.removeprefix(PREFIX)
    older = [step for step in steps(folder.parent) if number.isdigit() and step < int(number)]
    candidates = (folder.with_name(f"{PREFIX}{step}") for step in reversed(older))
    return next((candidate for candidate in candidates if not damage(candidate)), None)


def newest(root: Path, *, skip_damaged: bool) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, None without any, and a line for each damaged one that was set aside before it.

    Args:
        skip_damaged: rename damaged checkpoints to ``.damaged-step_N`` and go back to the one before.

    Raises:
        CheckpointError: the newest checkpoint is damaged, and ``skip_damaged`` is false or none before it is whole.
    """
    lines: list[str] = []
    for step in reversed(steps(root)):
        folder = root / f"{PREFIX}{step}"
        found = damage(folder)
        if not found:
            return folder, lines
        whole = whole_before(folder)
        if whole is None:
            raise CheckpointError(
                f"{found}. No checkpoint before it is whole; delete {root} to start from the beginning"
            )
        if not skip_damaged:
            raise CheckpointError(
                f"{found}. The checkpoint before it, {whole}, is whole: checkpoint.damaged=skip goes on from there"
            )
        aside = folder.with_name(f".damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
        if (root / LATEST).is_symlink():
            link(root, LATEST, step_of(whole))
        lines.append(f"{found}; this checkpoint is now {aside}, and the run goes on from {whole}")
    return None, lines


def read_state(folder: Path) -> dict[str, Any]:
    """The trainer state of a checkpoint."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def load_state(folder: Path) -> dict[str, Any]:
    """Verify a checkpoint and read its trainer state."""
    verify(folder)
    return read_state(folder)


def prune(root: Path, *, keep_last: int, protected: Collection[int]) -> None:
    """Remove all but the newest ``keep_last`` checkpoints (0: remove none) and the protected steps."""
    remaining = set(protected) | set(steps(root)[-keep_last:] if keep_last else steps(root))
    for step in steps(root):
        if step not in remaining:
            remove(root / f"{PREFIX}{step}")


def link(root: Path, name: str, step: int | None) -> None:
    """Let ``root/name`` lead to a checkpoint; without one, or where links cannot be made, there is none."""
    place, partial = root / name, root / f".writing-{name}"
    target = None if step is None else f"{PREFIX}{step}"
    try:
        if target is None or not (root / target).is_dir():
            place.unlink(missing_ok=True)
            return
        partial.unlink(missing_ok=True)
        partial.symlink_to(target, target_is_directory=True)
        os.replace(partial, place)
    except OSError:  # a file system without links: commands find the checkpoints by their steps
        return


def clean(root: Path) -> None:
    """Delete the leftovers of an interrupted save or removal."""
    if root.is_dir():
        for path in root.iterdir():
            if path.name.startswith((".writing-", ".removing-")) and path.is_symlink():
                path.unlink()
            elif path.name.startswith((".writing-", ".removing-")):
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
