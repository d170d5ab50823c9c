"""MindRLHF's snippets on MindSpore, its token files, and checkpoints that MindSpore itself writes and reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.recipes import mindrlhf_runs

ms = pytest.importorskip("mindspore")
pytest.importorskip("torch")

from mindrlhf_grpo.recipes.mindrlhf.ckpt_files import read_ckpt_header, read_ckpt_tensor, write_ckpt  # noqa: E402
from mindrlhf_grpo.recipes.mindrlhf.token_files import read_token_file, write_token_file  # noqa: E402

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mindrlhf")
    mindrlhf_runs.prepare(folder, steps=1, pretrain=0.0, layers=1)
    return folder


@pytest.mark.parametrize("snippet", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])  # test_online runs PPO
@pytest.mark.row("mindrlhf", "Facade")
def test_a_snippet_runs_unmodified(folder: Path, snippet: str) -> None:
    environment = {
        **tiny.environment(),
        "MINDRLHF_BACKEND": "mindspore",
        "MINDRLHF_CONFIG": str(folder / f"{snippet}.yaml"),
    }
    path = mindrlhf_runs.script(folder, snippet)
    command = [sys.executable, "-m", "mindrlhf_grpo", "recipe", "mindrlhf", "run", str(path), str(folder)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = [json.loads(line) for line in (folder / snippet / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 1
    assert metrics[0]["ratio/max_dev"] < 1e-4


def test_checkpoints_are_those_that_mindspore_writes_and_reads(tmp_path: Path) -> None:
    values = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(1.5).reshape(())}
    half = ms.Tensor(np.array([1.0, -2.5], np.float32)).astype(ms.bfloat16)
    saved = [{"name": name, "data": ms.Tensor(array)} for name, array in values.items()]
    ms.save_checkpoint([*saved, {"name": "half", "data": half}], str(tmp_path / "theirs.ckpt"), crc_check=True)
    header = read_ckpt_header(tmp_path / "theirs.ckpt")
    assert header["half"].dtype == "BF16"
    assert read_ckpt_tensor(tmp_path / "theirs.ckpt", header["half"]).tolist() == [1.0, -2.5]
    for name, array in values.items():
        assert np.array_equal(read_ckpt_tensor(tmp_path / "theirs.ckpt", header[name]), array)
    write_ckpt(tmp_path / "ours.ckpt", values.items(), dtypes=dict.fromkeys(values, "F32"))
    loaded = ms.load_checkpoint(str(tmp_path / "ours.ckpt"))
    assert {name: loaded[name].asnumpy().tolist() for name in values} == {k: v.tolist() for k, v in values.items()}


def test_rows_in_mindsporess_own_format(tmp_path: Path) -> None:
    rows = [{"prompt_ids": np.array([1, 2, number]), "weight": np.array([0.5], np.float32)} for number in range(3)]
    assert write_token_file(tmp_path / "rows.mindrecord", rows) == 3
    found = [record for _, record in read_token_file(tmp_path / "rows.mindrecord")]
    assert [record["prompt_ids"].tolist() for record in found] == [[1, 2, 0], [1, 2, 1], [1, 2, 2]]
    assert found[0]["weight"].tolist() == [0.5]
    assert os.path.exists(tmp_path / "rows.mindrecord.db")
