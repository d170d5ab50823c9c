"""Model folders: a file of weights that is not whole is found before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.folder import find_folder
from tests.support.runs.commands import command
from tests.support.tiny_run import needs_torch, write_run


def cut(path: Path) -> str:
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    return f"{path} is cut off: it has {len(content) - 100} of {len(content)} bytes; download it again"


def empty(path: Path) -> str:
    path.write_bytes(b"")
    return f"{path} is no safetensors file, or is cut off (0 bytes)"


def pointer(path: Path) -> str:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 30\n")
    return f"{path} is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it"


def missing_shard(path: Path) -> str:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    return f"{path.with_name('model-00002-of-00002.safetensors')} is missing, but the index of the model names it"


@pytest.mark.parametrize("damage", [cut, empty, pointer, missing_shard])
def test_weights_that_are_not_whole_are_refused_by_name_and_size(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    """Finding newcomer P3.7 (a cut-off download was called a bug, and doctor said "Ready.")."""
    write_run(tmp_path)
    assert find_folder(str(tmp_path / "model")) == tmp_path / "model"
    text = damage(tmp_path / "model" / "model.safetensors")
    with pytest.raises(ConfigError) as refused:
        find_folder(str(tmp_path / "model"))
    assert str(refused.value).startswith(text)


@needs_torch
def test_every_command_that_reads_a_model_says_so(tmp_path: Path) -> None:
    """Finding newcomer P3.7, its kind: policy, critic, reward model and judge, in doctor, train, generate and evaluate."""
    config, other = write_run(tmp_path), write_run(tmp_path / "other").parent / "model"
    text = cut(other / "model.safetensors")
    (tmp_path / "judge.txt").write_text("{{ question }}{{ response }}")
    asks = f"{{template: {tmp_path / 'judge.txt'}, verdicts: {{'yes': 1, 'no': 0}}}}"
    judge = (
        "rewards.0.function=mindrlhf_grpo.rewards.judges:JudgeReward",
        f"rewards.0.arguments={{model: {other}, judge: {asks}}}",
    )
    for arguments in (
        ("train", config, f"model.path={other}"),
        ("train", config, f"rewards.0.function=model:{other}"),
        ("train", config, f"critic={{path: {other}}}", "algorithm.name=ppo"),
        ("train", config, *judge),
        ("generate", other, "hello"),
        ("evaluate", config, "--model", other),
    ):
        done = command(*arguments)
        assert (done.code, text in " ".join(done.err.split())) == (2, True), (arguments, done)
    done = command("doctor", config, f"model.path={other}")
    assert done.code == 1
    assert text in done.out
    assert "Not ready." in done.out
