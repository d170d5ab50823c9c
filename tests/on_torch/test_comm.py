"""Two ranks under torch.distributed make the same update as one process, also when one has no rows."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import RunFailed
from tests.support.runs import forked
from tests.support.tiny_policy import load_policy, make_batch, weighted_loss, write_model

torch = pytest.importorskip("torch")

from mindrlhf_grpo_torch import comm  # noqa: E402

WORKER = """
import json, sys
from pathlib import Path
import numpy as np, torch
from tests.support.tiny_policy import make_batch, run_config, weighted_loss
from mindrlhf_grpo_torch import build
torch.set_num_threads(1)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
backend = build(run_config(folder))
comm, policy = backend.comm, backend.load_policy()
assert comm.gather_objects(("x", comm.rank)) == [("x", 0), ("x", 1)]
results = []
for seed in range(2):
    batch = make_batch(seed=seed)
    rows = np.array_split(np.arange(len(batch)), 2)[comm.rank] if seed == 0 else np.arange(len(batch)) if comm.rank else []
    results.append(policy.update(batch.take(rows), weighted_loss, learning_rate=1e-2))
digests = comm.gather_objects(policy.fingerprint())
assert digests[0] == digests[1]
if comm.rank == 0:
    policy.save_model(out / "policy")
    (out / "results.json").write_text(json.dumps([[r.loss, r.grad_norm, dict(r.sums)] for r in results]))
comm.barrier()
comm.close()
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_two_ranks_sum_their_gradients(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")  # no biases: Adam would blow up rounding of their near-zero gradients
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    forked.finish(forked.ranks([str(worker), str(folder), str(tmp_path)], 2))
    alone = load_policy(folder)
    for seed, (loss, norm, sums) in enumerate(json.loads((tmp_path / "results.json").read_text())):
        result = alone.update(make_batch(seed=seed), weighted_loss, learning_rate=1e-2)
        assert loss == pytest.approx(result.loss, rel=1e-6)
        assert norm == pytest.approx(result.grad_norm, rel=1e-6)
        assert sums == pytest.approx(dict(result.sums), rel=1e-6)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "policy" / "model.safetensors")
    for name, tensor in saved.items():
        weight = alone.trainable[name]
        assert (tensor - weight).norm() <= 1e-5 * weight.norm(), name


def test_one_process_is_its_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = comm.connect("cpu")
    assert (alone.rank, alone.world_size) == (0, 1)
    assert alone.gather_objects({"a": 1}) == [{"a": 1}]
    alone.barrier()
    alone.close()


@pytest.mark.parametrize("bucket", [1, 10, 1000])
def test_buckets_hold_every_gradient_once(monkeypatch: pytest.MonkeyPatch, bucket: int) -> None:
    reduced: list[int] = []
    monkeypatch.setattr(comm, "BUCKET", bucket)
    monkeypatch.setattr(comm.dist, "all_reduce", lambda flat, group: reduced.append(flat.numel()) or flat.mul_(2))
    named = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 5, 4, 1)]
    for value, weight in enumerate(named[:3]):
        weight.grad = torch.full_like(weight, value + 1.0)
    comm.Group((0,), 0, None, None).sum_gradients(named)
    assert sum(reduced) == 13
    assert len(reduced) == {1: 4, 10: 2, 1000: 1}[bucket]
    assert [float(np.mean(weight.grad.numpy())) for weight in named] == [2.0, 4.0, 6.0, 0.0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:9652. This is typically", "Connection closed by peer"),
        ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)", "Watchdog caught collective operation timeout"),
        ("NCCL error: remote process exited or there was a network error", "remote process exited"),
    ],
)  # fmt: skip
def test_a_lost_rank_is_a_failed_run_and_no_bug(text: str, reason: str) -> None:
    """Finding torch.md 5 (rank killed): the ranks that are left say so in the user's words."""
    with pytest.raises(RunFailed) as failed, comm.others_present():
        raise RuntimeError(text)
    assert str(failed.value).startswith(f"another rank has left the run; its log says why ({reason}). ")
    with pytest.raises(RuntimeError, match="shapes differ"), comm.others_present():
        raise RuntimeError("shapes differ")
