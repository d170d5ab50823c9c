"""The process group: one process, or the workers that msrun started.

Gradients are summed, never averaged: loss weights carry the denominators of the global batch. On the CPU only
float32 all-reduce by sum, all-gather and int32 broadcast are used: most other collectives fail there, and one that has
failed makes later ones return wrong numbers. So before each call all ranks verify that they are about to make the same one.
"""

from __future__ import annotations

import atexit
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, ops
from numpy.typing import NDArray

from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.single_process import SingleProcess

from .host_link import KEY_BYTES, HostLink, accept, join, listen, local_address

T = TypeVar("T")
BUCKET = 8 * 1024 * 1024  # elements reduced at once
HOST_BYTES = 64  # room for the text of an address


class MindSporeRanks:
    """mccl or hccl for gradients, the host link for everything else."""

    def __init__(self, device_kind: str) -> None:
        with as_run_failed("the workers of msrun did not find each other"):
            communication.init("hccl" if device_kind == "npu" else "mccl")
        self.rank, self.world_size = communication.get_rank(), communication.get_group_size()
        os.environ["RANK_ID"] = str(self.rank)  # msrun cannot know it on several machines without --node_rank
        atexit.register(silence_exit)
        self.calls = 0
        self.link = open_link(self.rank, self.world_size)
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)
        self.all_gather = ops.AllGather()
        self.reduce_scatter = ops.ReduceScatter(ops.ReduceOp.SUM) if device_kind == "npu" else None  # mccl has none

    @property
    def rows(self) -> MindSporeRanks:
        """Every rank has rows of its own."""
        return self

    def once(self, compute: Callable[[], T]) -> T:
        return compute()

    def gather_objects(self, item: Any) -> list[Any]:
        """Every rank's item, in rank order. Items are pickled in memory only, between ranks of one run."""
        return self._agree("gather_objects", "", item)

    def barrier(self) -> None:
        self._agree("barrier", "")

    def close(self) -> None:
        self.link.close()

    def abandon(self) -> None:
        self.link.close()  # its farewell lets the others end by themselves

    def sum_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """The sum over ranks of every tensor (float32), reduced in flat buckets."""
        shapes = [tuple(gradient.shape) for gradient in gradients]
        sizes = [int(np.prod(shape)) for shape in shapes]
        self._agree(
            "sum_gradients",
            f"{len(sizes)} tensors, {sum(sizes)} values, shapes {zlib.crc32(repr(shapes).encode()):08x}",
        )
        summed: list[Tensor] = []
        for first, last in buckets(sizes, BUCKET):
            flat = self.all_reduce(flattened(gradients[first:last]))
            ends = np.cumsum(sizes[first:last]).tolist()
            summed += [
                flat[end - size : end].reshape(shape)
                for end, size, shape in zip(ends, sizes[first:last], shapes[first:last], strict=True)
            ]
        return summed

    def sum_to_owners(self, flat: Tensor) -> Tensor:
        """Sum ``[w s]`` float32 over the w ranks; return the s numbers that this rank owns."""
        size = flat.shape[0] // self.world_size
        self._agree("sum_to_owners", f"{size} values each")
        if self.reduce_scatter is not None:
            return self.reduce_scatter(flat)
        return self.all_reduce(flat)[self.rank * size : (self.rank + 1) * size]

    def gather_slices(self, own: Tensor) -> Tensor:
        """All ranks' ``[s]`` end to end: ``[w s]``."""
        self._agree("gather_slices", f"{own.shape[0]} values each")
        return self.all_gather(own)

    def _agree(self, operation: str, details: str, item: Any = None) -> list[Any]:
        """Gather an item, and verify that every rank makes this call.

        Raises:
            RunFailed: another rank calls something else, or has left.
        """
        self.calls += 1
        announced_calls = self.link.gather((self.calls, operation, details, item))
        check_same(announced_calls)
        return [rank_item for *_, rank_item in announced_calls]


def check_same(calls: Sequence[tuple[int, str, str, Any]]) -> None:
    """Raise RunFailed, naming both calls, unless all ranks announced the same one."""
    for rank, call in enumerate(calls):
        if call[:3] != calls[0][:3]:
            raise RunFailed(
                f"ranks disagree on what comes next: {describe_call(0, calls[0])}, {describe_call(rank, call)}"
            )


def describe_call(rank: int, call: tuple[int, str, str, Any]) -> str:
    number, operation, details, _ = call
    return f"rank {rank} makes call {number}, {operation}" + (f" ({details})" if details else "")


def buckets(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Cut tensors into runs [first, last) of about ``limit`` elements; a larger tensor is a run of its own."""
    runs: list[tuple[int, int]] = []
    first, filled = 0, 0
    for index, size in enumerate(sizes):
        if filled and filled + size > limit:
            runs.append((first, index))
            first, filled = index, 0
        filled += size
    return [*runs, (first, len(sizes))] if sizes else []


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors end to end, in float32."""
    parts = [tensor.reshape(-1).astype(ms.float32) for tensor in tensors]
    return parts[0] if len(parts) == 1 else ops.cat(parts)


def open_link(rank: int, world_size: int) -> HostLink:
    """Connect all ranks to rank 0, whose address and key are broadcast over MindSpore's own network."""
    if rank == 0:
        listener, key = listen(local_address(os.environ.get("MS_SCHED_HOST", "127.0.0.1")))
        host, port = listener.address
        broadcast(announcement(host, port, key))
        return accept(listener, world_size)
    host, port, key = announced(broadcast(np.zeros(HOST_BYTES + KEY_BYTES + 2, np.int32)))
    return join((host, port), key, rank)


def announcement(host: str, port: int, key: bytes) -> NDArray[np.int32]:
    """Address and key as int32."""
    text = host.encode()
    return np.array([port, len(text), *text.ljust(HOST_BYTES, b"\0"), *key], np.int32)


def announced(numbers: NDArray[np.int32]) -> tuple[str, int, bytes]:
    """Inverse of ``announcement``."""
    port, length, *rest = numbers.tolist()
    return bytes(rest[:length]).decode(), port, bytes(rest[HOST_BYTES:])


def broadcast(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Rank 0's numbers (int32), on every rank."""
    (received,) = ops.Broadcast(0)((Tensor(numbers),))
    return np.array(received.asnumpy())


@contextmanager
def as_run_failed(explanation: str) -> Iterator[None]:
    """MindSpore's RuntimeError in the block becomes a RunFailed: the explanation and the error's first line."""
    try:
        yield
    except RuntimeError as error:
        raise RunFailed(f"{explanation}: {str(error).strip().splitlines()[0]}") from None


def silence_exit() -> None:
    """Drop the messages of MindSpore's network on standard error at exit, which msrun would show as our output."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def local_rank() -> int:
    """This process's number on its machine, which is also the number of its device."""
    return int(os.environ.get("DEVICE_ID", "0"))


def connect(device_kind: str) -> SingleProcess | MindSporeRanks:
    """The workers msrun announced in the environment, or a single process."""
    role = os.environ.get("MS_ROLE")
    if role == "MS_SCHED":
        schedule()
    return MindSporeRanks(device_kind) if role == "MS_WORKER" else SingleProcess()


def schedule() -> NoReturn:
    """Run as msrun's scheduler, which connects the workers and trains nothing.

    Raises:
        SystemExit: the workers are done.
        RunFailed: one of them has ended without finishing.
    """
    with as_run_failed("msrun's scheduler"):
        communication.init()
    raise SystemExit(0)
