"""Checkpoints: whole or absent, readable by others, and what is done about a damaged one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.checkpoint_folders import LATEST
from mindrlhf_grpo.run import checkpoint


def fill(folder: Path) -> None:
    save_file({"a": np.zeros(8, np.float32)}, folder / "policy" / "model.safetensors")
    (folder / "optimizer" / "optimizer.json").write_text('{"steps": 1}')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three checkpoints."""
    for step in (2, 4, 6):
        checkpoint.save(tmp_path, step, {"step": step}, fill)
    return tmp_path


def cut(folder: Path) -> None:
    path = folder / "policy" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = folder / "policy" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (cut, "model.safetensors is corrupt: it has "),
    (flip, "model.safetensors is corrupt: it differs from the manifest"),
    (lambda folder: (folder / "optimizer" / "optimizer.json").unlink(), "optimizer.json is missing"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    (lambda folder: (folder / "manifest.json").write_text('{"a": 1}'), "manifest.json cannot be read"),
]


@pytest.mark.parametrize(("damage", "text"), DAMAGES)
def test_a_damaged_newest_checkpoint_is_refused_and_the_one_before_it_offered(
    root: Path, damage: Callable[[Path], object], text: str
) -> None:
    """Finding torch.md 5 (the previous checkpoint is not offered)."""
    damage(root / "step_6")
    with pytest.raises(CheckpointError) as refused:
        checkpoint.newest(root, skip_damaged=False)
    assert text in str(refused.value)
    assert str(refused.value).endswith(
        f"The checkpoint before it, {root / 'step_4'}, is whole: checkpoint.damaged=skip goes on from there"
    )
    with pytest.raises(CheckpointError, match=rf"{root / 'step_4'}, is whole \(--checkpoint step_4\)"):
        checkpoint.verify(root / "step_6")


def test_skip_sets_damaged_ones_aside_and_goes_back_to_a_whole_one(root: Path) -> None:
    checkpoint.link(root, LATEST, 6)
    cut(root / "step_6")
    flip(root / "step_4")
    folder, lines = checkpoint.newest(root, skip_damaged=True)
    assert folder == root / "step_2"
    assert [line.partition("; ")[2] for line in lines] == [
        f"this checkpoint is now {root / f'.damaged-step_{step}'}, and the run goes on from {root / 'step_2'}"
        for step in (6, 4)
    ]
    assert checkpoint.steps(root) == [2]
    assert (root / LATEST).resolve() == root / "step_2"
    assert (root / ".damaged-step_6" / "policy" / "model.safetensors").is_file()
    assert checkpoint.newest(root, skip_damaged=True) == (root / "step_2", [])


def test_without_a_whole_one_nothing_is_set_aside(root: Path) -> None:
    for step in (2, 4, 6):
        cut(root / f"step_{step}")
    with pytest.raises(CheckpointError, match=f"No checkpoint before it is whole; delete {root} to start"):
        checkpoint.newest(root, skip_damaged=True)
    assert checkpoint.steps(root) == [2, 4, 6]


def test_a_fresh_run_has_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nothing", skip_damaged=False) == (None, [])


def test_what_a_full_disk_did_not_take_is_removed_and_the_others_stay(root: Path) -> None:
    """Finding newcomer P3.7, torch.md 5: the partial checkpoint kept the disk full."""

    def full(folder: Path) -> None:
        (folder / "policy" / "half").write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(checkpoint.Unwritten) as failed:
        checkpoint.save(root, 8, {"step": 8}, full)
    assert failed.value.written == 1000 + len('{\n "step": 8\n}')
    assert sorted(path.name for path in root.iterdir()) == ["step_2", "step_4", "step_6"]
    assert checkpoint.newest(root, skip_damaged=False) == (root / "step_6", [])
    checkpoint.save(root, 8, {"step": 8}, fill)
    assert checkpoint.steps(root) == [2, 4, 6, 8]


def test_another_error_passes_and_leaves_nothing_either(root: Path) -> None:
    def broken(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        checkpoint.save(root, 8, {}, broken)
    assert not (root / ".writing-step_8").exists()


def test_every_file_follows_the_umask(tmp_path: Path) -> None:
    """Finding newcomer P3.10 (weights were readable for their owner only)."""
    before = os.umask(0o027)
    try:
        folder = checkpoint.save(tmp_path, 1, {}, fill)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {"0o640"}
