"""Two workers under msrun: right sums, one order of calls, and an end when one dies."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindrlhf_grpo_mindspore import comm
from mindspore import Tensor

from mindrlhf_grpo.errors import RunFailed
from tests.support import tiny

WORKER = """
import json, os, sys
from pathlib import Path
import mindrlhf_grpo_mindspore
import mindspore as ms, numpy as np
from mindspore import Tensor
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo_mindspore import comm
ms.set_device("CPU")
ranks = comm.connect("cpu")
rank = ranks.rank
comm.BUCKET = 10
gradients = [Tensor(np.full(shape, rank + 1.5, np.float32)) for shape in [(3,), (2, 4), (20,), (1,), ()]]
summed = [tensor.asnumpy() for tensor in ranks.sum_gradients(gradients)]
noise = np.random.default_rng(rank).normal(size=100_003).astype(np.float32)
total = ranks.sum_gradients([Tensor(noise)])[0].asnumpy()
found = {
    "ranks": [rank, ranks.world_size, int(os.environ["RANK_ID"])],
    "gathered": ranks.gather_objects({"rank": rank}),
    "shapes": [list(tensor.shape) for tensor in summed],
    "sums": [sorted(set(tensor.reshape(-1).tolist())) for tensor in summed],
    "bits": total.tobytes().hex()[:4000],
    "total": float(total.astype(np.float64).sum()),
    "nothing": ranks.sum_gradients([]),
}
ranks.barrier()
try:
    ranks.sum_gradients(gradients[:2]) if rank == 0 else ranks.barrier()
except RunFailed as error:
    found["disagreement"] = str(error)
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
ranks.close()
if rank == 0:
    print(json.dumps({"done": True}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """Return msrun's output and the findings of each of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "worker.py").write_text(WORKER)
    command = [*tiny.msrun(2, folder / "logs"), str(folder / "worker.py"), str(folder)]
    done = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_workers_know_their_rank(found: tuple[str, list[dict[str, Any]]]) -> None:
    assert [worker["ranks"] for worker in found[1]] == [[0, 2, 0], [1, 2, 1]]


def test_objects_arrive_in_rank_order(found: tuple[str, list[dict[str, Any]]]) -> None:
    assert [worker["gathered"] for worker in found[1]] == [[{"rank": 0}, {"rank": 1}]] * 2


def test_gradients_are_summed_in_their_shapes(found: tuple[str, list[dict[str, Any]]]) -> None:
    for worker in found[1]:
        assert worker["shapes"] == [[3], [2, 4], [20], [1], []]
        assert worker["sums"] == [[4.0]] * 5  # 1.5 + 2.5
        assert worker["nothing"] == []


def test_sums_have_the_same_bits_on_every_rank(found: tuple[str, list[dict[str, Any]]]) -> None:
    one, other = found[1]
    assert one["bits"] == other["bits"]
    noise = [np.random.default_rng(rank).normal(size=100_003).astype(np.float32) for rank in range(2)]
    assert one["total"] == pytest.approx(float((noise[0] + noise[1]).astype(np.float64).sum()), rel=1e-6)


def test_ranks_that_disagree_fail_before_anything_is_sent(found: tuple[str, list[dict[str, Any]]]) -> None:
    for worker in found[1]:
        assert worker["disagreement"].startswith(
            "ranks disagree on what comes next: rank 0 makes call 6, sum_gradients"
        )
        assert worker["disagreement"].endswith("rank 1 makes call 6, barrier")


def test_last_line_is_rank_0s(found: tuple[str, list[dict[str, Any]]]) -> None:
    assert json.loads(found[0].strip().splitlines()[-1]) == {"done": True}


# ---- one process


def test_one_process_is_its_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MS_ROLE", raising=False)
    alone = comm.connect("cpu")
    assert (alone.rank, alone.world_size) == (0, 1)
    assert alone.gather_objects({"a": 1}) == [{"a": 1}]
    gradients = [Tensor([1.0, 2.0], ms.float32)]
    assert alone.sum_gradients(gradients) is gradients
    alone.barrier()
    alone.close()


@pytest.mark.parametrize(
    ("sizes", "limit", "runs"),
    [
        ([], 10, []),
        ([3, 5, 4, 1], 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ([3, 5, 4, 1], 9, [(0, 2), (2, 4)]),
        ([3, 5, 4, 1], 100, [(0, 4)]),
        ([30, 1, 1], 10, [(0, 1), (1, 3)]),
        ([0, 0], 10, [(0, 2)]),
    ],
)
def test_buckets_hold_every_tensor_once(sizes: list[int], limit: int, runs: list[tuple[int, int]]) -> None:
    assert comm.buckets(sizes, limit) == runs


def test_address_and_key_survive_as_numbers() -> None:
    for host in ("127.0.0.1", "fe80::1234:5678:9abc:def0"):
        assert comm.announced(comm.announcement(host, 50123, bytes(range(32)))) == (host, 50123, bytes(range(32)))


def test_both_sides_of_a_disagreement_are_named() -> None:
    said = [(3, "barrier", "", None), (3, "barrier", "", None), (3, "gather_objects", "", {"a": 1})]
    with pytest.raises(RunFailed, match="rank 0 makes call 3, barrier, rank 2 makes call 3, gather_objects"):
        comm.check_same(said)
    comm.check_same([(3, "gather_objects", "", {"a": 1}), (3, "gather_objects", "", {"a": 2})])


# ---- whole runs

STEPS = 3
OPTIONS = {
    "backend": "mindspore",
    "train": {"steps": STEPS, "prompts_per_step": 5, "learning_rate": 0.001},
    "algorithm": {"preset": "trl"},
}


@pytest.mark.slow
def test_two_workers_are_the_same_run_as_one_process(tmp_path: Path) -> None:
    config = tiny.prepare(tmp_path, layers=1, **OPTIONS)
    alone, together = tmp_path / "run", tmp_path / "workers"
    tiny.train(config)
    summary = tiny.train(config, f"run_dir={together}", processes=2)
    assert summary["report"] == str(together / "report.html")
    for step in range(1, STEPS + 1):
        expected, got = tiny.rollouts(alone, step), tiny.rollouts(together, step)
        assert expected.keys() == got.keys()
        for key, row in expected.items():
            assert got[key]["ids"] == row["ids"]
            assert got[key]["components"] == row["components"]
            assert got[key]["advantages"] == row["advantages"]
    for one, other in zip(tiny.metrics(alone), tiny.metrics(together), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5, abs=1e-8)
    expected_weights, got_weights = tiny.weights(alone, STEPS), tiny.weights(together, STEPS)
    for name, tensor in expected_weights.items():
        assert np.linalg.norm(got_weights[name] - tensor) <= 1e-5 * np.linalg.norm(tensor), name


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_with_a_clear_error(tmp_path: Path) -> None:
    config = tiny.prepare(tmp_path, layers=1, **{**OPTIONS, "train": {"steps": 10_000, "prompts_per_step": 2}})
    output = (tmp_path / "output").open("w")
    job = subprocess.Popen(
        tiny.command(config, processes=2), env=tiny.environment(), stdout=output, stderr=subprocess.STDOUT
    )
    try:
        wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").is_file(), seconds=150)
        (worker,) = [child for child in psutil.Process(job.pid).children() if child.environ().get("RANK_ID") == "1"]
        worker.kill()
        assert job.wait(timeout=600) != 0  # about 30 s
    finally:
        for child in psutil.Process(job.pid).children(recursive=True) if job.poll() is None else []:
            child.kill()
        job.kill()
    said = (tmp_path / "output").read_text() + (tmp_path / "logs" / "worker_0.log").read_text()
    assert "error: rank 1 has ended (killed, out of memory" in said


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.1)
