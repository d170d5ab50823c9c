"""Optimizer state shared out over two msrun workers: the steps of one process, and its files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny, tiny_policy

pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore.training import optimizer_shards
from mindrlhf_grpo_mindspore.training.optimizer_shards import OptimizerShards
from mindspore import Parameter, Tensor

from mindrlhf_grpo.model_files.folder import read_header
from mindrlhf_grpo.model_files.safetensors import read_tensor
from tests.support.runs import mindspore_shards

LORA = {"lora_rank": 3, "lora_alpha": 6.0}
CASES: dict[str, dict[str, Any]] = {
    "zero1": {"parallel": {"strategy": "zero1"}, "model": {}},
    "zero2": {"parallel": {"strategy": "zero2"}, "model": LORA},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the runs, and what each said: in one process and in two."""
    folder = tmp_path_factory.mktemp("shards")
    model = tiny_policy.write_model(folder / "model", "qwen3", num_hidden_layers=1, vocab_size=64)
    script = Path(mindspore_shards.__file__)
    for name in ("one", "two"):
        (folder / name).mkdir()
    command = [*tiny.msrun(2, folder / "logs"), str(script), str(model), str(folder / "two"), json.dumps(CASES)]
    done = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    alone = mindspore_shards.main(model, folder / "one", CASES)
    return folder, {"one": alone, "two": json.loads((folder / "two" / "found.json").read_text())}


@pytest.mark.parametrize("case", CASES)
def test_two_workers_make_the_steps_of_one(found: tuple[Path, dict[str, Any]], case: str) -> None:
    folder, runs = found
    one, two = runs["one"][case], runs["two"][case]
    expected = np.array(one["results"])
    assert (np.abs(np.array(two["results"]) - expected) <= 1e-5 * np.abs(expected).max(axis=0)).all()
    for name in ("same after loading", "same step again", "same on every rank"):
        assert two[name], name
    assert two["state"] < 0.51 * one["state"] + 8
    for part in ("model", "state"):
        theirs, ours = (tensors(folder / name / case / part) for name in ("one", "two"))
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            assert np.linalg.norm(ours[name] - tensor) <= 1e-5 * max(np.linalg.norm(tensor), 1e-3), name


def tensors(folder: Path) -> dict[str, Any]:
    paths = sorted(folder.glob("*.safetensors"))
    return {name: read_tensor(path, info) for path in paths for name, info in read_header(path).items()}


class Ranks:
    """One of several ranks, which talks to nobody."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.data_rank, self.data_size = rank, world_size


def test_slices_of_all_ranks_hold_every_number_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_shards, "BUCKET", 17)
    sizes = {"a": (3, 4), "b": (5,), "c": (2, 2)}
    weights = {
        name: Parameter(Tensor(np.arange(100 * place, 100 * place + np.prod(shape), dtype=np.float32).reshape(shape)), name=name)
        for place, (name, shape) in enumerate(sizes.items(), 1)
    }  # fmt: skip
    expected = {name: weight.asnumpy().reshape(-1).tolist() for name, weight in weights.items()}
    for ranks in (1, 2, 3, 4):
        shards = [OptimizerShards(weights, Ranks(rank, ranks)) for rank in range(ranks)]  # type: ignore[arg-type]
        for name, members in {"0": ("a", "b"), "1": ("c",)}.items():
            flat = np.concatenate([shard.parameters[name].asnumpy() for shard in shards])
            numbers = [number for member in members for number in expected[member]]
            assert flat[: len(numbers)].tolist() == numbers
            assert not flat[len(numbers) :].any()
