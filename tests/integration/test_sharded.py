"""Weights, gradients and optimizer state shared out over two processes: the same run as in one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.config.parallel import ZERO_STAGES, ParallelConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.trainers.online import train
from tests.support import tiny
from tests.support.runs import forked, sharded_steps
from tests.support.runs.resumed import assert_same

pytestmark = pytest.mark.trains

SCRIPT = Path(sharded_steps.__file__)
STEPS = 3
OPTIONS: dict[str, Any] = {
    "seed": 1,
    "train": {"steps": STEPS, "prompts_per_step": 5, "learning_rate": 0.001, "tokens_per_micro_batch": 60},
    "algorithm": {"name": "ppo", "kl_coef": 0.05, "kl_in": "reward", "kl_estimator": "k1"},
    "critic": {"learning_rate": 0.003},
    "checkpoint": {"every": 2, "keep_last": 0},
}
CURVES = ("loss", "reward/mean", "critic/loss", "kl/reward", "entropy")


def sharded(models: Path, folder: Path, processes: int = 2, tensor: int = 1) -> dict[str, Any]:
    """Return the output of ``sharded_steps.py`` in so many processes."""
    output = forked.finish(forked.ranks([str(SCRIPT), str(models), str(folder), str(tensor)], processes))
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


Cases = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """The same steps in one process and, when they are asked for, in several."""
    from tests.support.tiny_policy import write_model

    folder = tmp_path_factory.mktemp("cases")
    for family in {family for _, family, _ in [*sharded_steps.CASES, *sharded_steps.SLICED]}:
        write_model(folder / family, family)

    @cache
    def found(ranks: str) -> dict[str, Any]:
        if ranks == "1":
            alone: dict[str, Any] = json.loads(json.dumps(sharded_steps.main(folder, folder / "alone")))
            return alone
        processes, tensor = {"2": (2, 1), "2 slices": (2, 2), "2 slices of 2 shards": (4, 2)}[ranks]
        return sharded(folder, folder / ranks.replace(" ", "_"), processes, tensor)

    return found


EVERY = {
    "2": sharded_steps.CASES,
    "2 slices": sharded_steps.SLICED,
    "2 slices of 2 shards": sharded_steps.SLICED_AND_SHARDED,
}


@pytest.mark.row("safework", "ZeRO/FSDP flags")
@pytest.mark.parametrize(
    ("ranks", "case"),
    [
        pytest.param(ranks, f"{strategy} {family}", marks=[pytest.mark.slow] if "shards" in ranks else [])
        for ranks in EVERY
        for strategy, family, _ in EVERY[ranks]
    ],
)
def test_every_way_to_share_out_makes_the_steps_of_one_process(cases: Cases, ranks: str, case: str) -> None:
    alone, found = cases("1")[case], cases(ranks)[case]
    results, expected = np.array(found["results"]), np.array(alone["results"])
    # A loss is a sum in which terms cancel: it is compared at the size of the largest of the three.
    assert (np.abs(results - expected) <= 1e-5 * np.abs(expected).max(axis=0)).all(), (results, expected)
    np.testing.assert_allclose(found["logps"], alone["logps"], rtol=1e-5)
    # The bias of keys starts at 0 and hardly has a gradient, and Adam divides by its size: there rounding is compared
    # with a step, of which a thousandth is allowed (1.4e-7 has been seen).
    norms = [{name: norm for name, norm in one["norms"].items() if compared(case, name)} for one in (found, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5, abs=1e-3 * sharded_steps.RATE)
    assert (found["same after loading"], found["same step again"]) == (True, True)
    # of adapters each rank keeps one factor whole
    assert found["held"] < (0.45 if ranks.endswith("shards") else 0.6 if "llama" not in case else 0.8) * alone["held"]
    # read part by part: nothing held more than its parts and, where layers are sharded, one layer or the vocabulary
    whole = 4 * alone["held"]
    if case.split()[1] not in ("gpt2", "llama"):
        assert 0 < found["peak"] < (0.95 if ranks == "2" else 0.6) * whole
    over = {"2": "over 2 ranks", "2 slices": "over 1 ranks, in slices over 2"}
    assert found["layout"].endswith(f"{case.split()[0]} {over.get(ranks, 'over 2 ranks, in slices over 2')}")


@pytest.mark.parametrize("ranks", ["2", "2 slices", pytest.param("2 slices of 2 shards", marks=pytest.mark.slow)])
def test_a_critic_in_bfloat16_has_its_head_in_float32(cases: Cases, ranks: str) -> None:
    alone, found = cases("1")["critic"], cases(ranks)["critic"]
    assert found["loss"] == pytest.approx(alone["loss"], rel=0.01)  # a rounding of bfloat16 is 0.004
    assert found["norm"] == pytest.approx(alone["norm"], rel=0.01)


def compared(case: str, name: str) -> bool:
    """GLM-4 does not rotate half of each head: there the gradient of the keys' bias is rounding alone, and Adam steps on it."""
    return "glm4" not in case or not name.endswith("k_proj.bias")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run in one process, and one in two that share everything."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny.prepare(folder, **OPTIONS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    train(load_config(config, []))
    torch.set_num_threads(threads)
    tiny.train(config, f"run_dir={folder / 'fsdp'}", "parallel.strategy=fsdp", processes=2)
    return folder


SLICED = ("parallel.strategy=fsdp", "parallel.tensor=2")


@pytest.fixture(scope="module")
def sliced(runs: Path) -> Path:
    """The same run in four processes, every matrix in two slices of two shards each."""
    tiny.train(runs / "config.yaml", f"run_dir={runs / 'sliced'}", *SLICED, processes=4)
    return runs


@pytest.mark.row("safework", "ZeRO/FSDP flags")
@pytest.mark.parametrize("name", ["fsdp", "sliced"])
def test_a_run_of_several_processes_samples_learns_and_saves_like_one(sliced: Path, name: str) -> None:
    runs = sliced
    for step in range(1, STEPS + 1):
        expected, got = (tiny.rollouts(runs / one, step) for one in ("run", name))
        assert expected.keys() == got.keys()
        for key, row in expected.items():
            assert (got[key]["ids"], got[key]["components"]) == (row["ids"], row["components"])
    for one, other in zip(tiny.metrics(runs / "run"), tiny.metrics(runs / name), strict=True):
        assert [other[name] for name in CURVES] == pytest.approx([one[name] for name in CURVES], abs=1e-5)
    alone, shared = (runs / one / "checkpoints" / f"step_{STEPS}" for one in ("run", name))
    assert files(alone) == files(shared)
    for part in ("policy", "critic"):
        assert (alone / part / "config.json").read_bytes() == (shared / part / "config.json").read_bytes()
    expected_weights, got_weights = tiny.weights(runs / "run", STEPS), tiny.weights(runs / name, STEPS)
    assert expected_weights.keys() == got_weights.keys()
    for weight, tensor in expected_weights.items():
        assert np.linalg.norm(got_weights[weight] - tensor) <= 1e-5 * np.linalg.norm(tensor), weight


@pytest.mark.row("safework", "ZeRO/FSDP flags")
def test_a_run_goes_on_in_another_layout(sliced: Path) -> None:
    again = sliced / "elsewhere"
    shutil.copytree(sliced / "fsdp", again)
    shutil.rmtree(again / "checkpoints" / f"step_{STEPS}")
    layout = ("parallel.strategy=replicate", "parallel.tensor=2")
    tiny.train(sliced / "config.yaml", f"run_dir={again}", *layout, processes=2)
    expected, got = tiny.weights(sliced / "run", STEPS), tiny.weights(again, STEPS)
    for weight, tensor in expected.items():
        assert np.linalg.norm(got[weight] - tensor) <= 1e-5 * np.linalg.norm(tensor), weight


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.row("safework", "ZeRO/FSDP flags")
def test_a_sharded_run_resumes_bit_for_bit_also_with_turns_on_the_device(runs: Path) -> None:
    again = runs / "again"
    shutil.copytree(runs / "fsdp", again)
    shutil.rmtree(again / "checkpoints" / f"step_{STEPS}")
    tiny.train(runs / "config.yaml", f"run_dir={again}", "parallel.strategy=fsdp", "swap={}", processes=2)
    assert_same(again, runs / "fsdp", STEPS)


@pytest.mark.row("safework", "ZeRO/FSDP flags", backend="none")
def test_stages_of_zero_are_ways_to_share_out() -> None:
    assert ZERO_STAGES == {0: "replicate", 1: "zero1", 2: "zero2", 3: "fsdp"}


@pytest.mark.row("safework", "ZeRO/FSDP flags")
def test_one_process_holds_everything_and_has_no_ranks_to_offload_for(tmp_path: Path) -> None:
    from mindrlhf_grpo_torch import build

    tiny.prepare(tmp_path)
    for offload, clear in ((False, None), (True, "parallel.offload needs ranks")):
        parallel = {"strategy": "fsdp", "offload": offload}
        backend = build(RunConfig.model_validate(tiny.settings(tmp_path, parallel=parallel)))
        if clear is None:
            assert backend.load_policy().shards is None
        else:
            with pytest.raises(BackendError, match=clear):
                backend.load_policy()


@pytest.mark.row("safework", "ZeRO/FSDP flags")
def test_what_cannot_be_shared_out_is_refused_with_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    from mindrlhf_grpo_torch.training import parallel

    settings, device = ParallelConfig(strategy="zero2"), torch.device("cpu")
    sees = SimpleNamespace(model=None, whole=None)
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", None)
    with pytest.raises(BackendError, match=r"zero2 needs torch.distributed.fsdp.fully_shard.*strategy=replicate"):
        parallel.fully_sharded(sees, settings, device, SimpleNamespace())
