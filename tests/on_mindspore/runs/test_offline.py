"""Training on given rows on MindSpore: it learns, and its curves are torch's. Rows of one length: one compilation each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.trainers.offline import train
from tests.support import tiny
from tests.support.runs import offline_runs as runs

pytestmark = pytest.mark.trains

STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits preferred to letters, and the digits alone."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("offline")
    tiny.write_model(folder / "model", layers=1)
    draw = np.random.default_rng(0)
    pairs = [
        {"prompt": f"{a}+{b}=", "chosen": "".join(map(str, draw.integers(0, 10, 3))),
         "rejected": "".join("abcdefgh"[place] for place in draw.integers(0, 8, 3))}
        for a, b in draw.integers(0, 10, (48, 2))
    ]  # fmt: skip
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    for name, rows in {"pairs": pairs, "chats": chats}.items():
        for part, chosen in {"train": rows[:40], "test": rows[40:]}.items():
            (folder / f"{name}_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return folder


# the other objectives' numbers: training/test_offline_losses
ROWS = [pytest.param("chats", "sft", marks=pytest.mark.slow), ("pairs", "dpo"),
        pytest.param("pairs", "bradley_terry", marks=pytest.mark.slow)]  # fmt: skip


@pytest.mark.parametrize(("rows", "name"), ROWS)
@pytest.mark.row("mindrlhf", "DPO/RM")
def test_it_learns_and_its_curves_are_torchs(rows: str, name: str, folder: Path) -> None:
    summaries: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[dict[str, float]]] = {}
    for backend in ("torch", "mindspore"):
        run = folder / f"{name}_{backend}"
        sections = {"train": {"steps": STEPS, "learning_rate": 0.003}, "run_dir": str(run), "backend": backend}
        summaries[backend] = train(runs.config_of(folder, rows, {"name": name}, **sections))
        curves[backend] = tiny.metrics(run)
    before, after = summaries["mindspore"]["before"], summaries["mindspore"]["after"]
    assert after["loss"] < 0.7 * before["loss"]
    if name != "sft":
        assert after["accuracy"] > 0.9
        assert after["margin"] > before["margin"] + 0.5
    assert len(curves["torch"]) == STEPS
    for one, two in zip(curves["torch"], curves["mindspore"], strict=True):
        same = [key for key in one if not key.startswith(("time/", "memory/", "entropy"))]
        assert {key: two[key] for key in same} == pytest.approx({key: one[key] for key in same}, abs=1e-3)
