"""Optimizer state, and matrices, shared out over two msrun workers: the steps of one process, and its files."""

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
    "tensor": {"parallel": {"strategy": "replicate", "tensor": 2}, "model": {}},
}


# zero1 differs from zero2 in when gradients are freed
@pytest.mark.parametrize("names", [("zero2", "tensor"), pytest.param(("zero1",), marks=pytest.mark.slow)])
def test_two_workers_make_the_steps_of_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    """One start of the workers for all cases: starting them takes longer than a case."""
    model = tiny_policy.write_model(tmp_path / "model", "qwen3", num_hidden_layers=1, vocab_size=64)
    cases = {name: CASES[name] for name in names}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    script = mindspore_shards.__file__
    command = [*tiny.msrun(2, tmp_path / "logs"), script, str(model), str(tmp_path / "two"), json.dumps(cases)]
    done = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    alone = mindspore_shards.main(model, tmp_path / "one", cases)
    together = json.loads((tmp_path / "two" / "found.json").read_text())
    for case in cases:
        compare(case, tmp_path, alone[case], together[case])


def compare(case: str, folder: Path, one: dict[str, Any], two: dict[str, Any]) -> None:
    """Assert that two workers computed, saved and loaded what one process did."""
    expected = np.array(one["results"])
    assert (np.abs(np.array(two["results"]) - expected) <= 1e-5 * np.abs(expected).max(axis=0)).all(), case
    for name in ("same after loading", "same step again", "same on every rank"):
        assert two[name], (case, name)
    if case == "tensor":  # both workers have all rows
        for name in ("logps", "entropies"):
            assert np.allclose(two[name], one[name], rtol=1e-5, atol=1e-5), name
    assert two["state"] < 0.51 * one["state"] + 8
    for part in ("model", "state"):
        theirs, ours = (tensors(folder / name / case / part) for name in ("one", "two"))
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            assert np.linalg.norm(ours[name] - tensor) <= 1e-5 * max(np.linalg.norm(tensor), 1e-3), (case, name)


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
