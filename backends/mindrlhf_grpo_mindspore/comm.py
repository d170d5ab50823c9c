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

from mindrlhf_grpo.config.parallel import EngineParallelConfig, ParallelConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.mesh import Mesh, engine_mesh, training_mesh
from mindrlhf_grpo.parallel.single_process import SingleProcess

from .host_link import KEY_BYTES, HostLink, accept, join, listen, local_address
from .models.tensor_group import GroupGather, TensorGroup

T = TypeVar("T")
BUCKET = 8 * 1024 * 1024  # elements reduced at once
CREATED: set[str] = set()  # groups of MindSpore's collectives in this process
HOST_BYTES = 64  # room for the text of an address


class MindSporeRanks:
    """mccl or hccl for gradients, the host link for everything else.

    Gradients are summed over the ranks that hold the same slices for other rows: ``data_size`` ranks, of which this is
    number ``data_rank``.

    Attributes:
        mesh: the tensor groups of the run.
        group: that of this rank.

    Raises:
        ConfigError: ranks that are no whole number of tensor groups.
    """

    def __init__(
        self,
        device_kind: str,
        settings: ParallelConfig | None = None,
        engine: EngineParallelConfig | None = None,
    ) -> None:
        with as_run_failed("the workers of msrun did not find each other"):
            communication.init("hccl" if device_kind == "npu" else "mccl")
        self.rank, self.world_size = communication.get_rank(), communication.get_group_size()
        os.environ["RANK_ID"] = str(self.rank)  # msrun cannot know it on several machines without --node_rank
        atexit.register(silence_exit)
        self.calls = 0
        self.broadcasts: dict[int, ops.Broadcast] = {}  # by source
        self.link = open_link(self.rank, self.world_size)
        self.reduces = device_kind == "npu"  # mccl has no reduce-scatter
        self.divide(settings, engine)

    def divide(self, settings: ParallelConfig | None, engine: EngineParallelConfig | None = None) -> None:
        """Divide the ranks into tensor groups and data-parallel groups."""
        self.mesh = training_mesh(self.world_size, settings)
        self.data_rank, self.data_size = self.mesh.data_rank(self.rank), self.mesh.data
        data = group_name("data", self.mesh.data_group(self.rank), self.world_size)
        self.group = tensor_group(self.mesh, self.rank)
        self.engine = EngineRanks(self, engine_mesh(self.world_size, settings, engine))
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM, data)
        self.all_gather = GroupGather(TensorGroup(size=self.data_size, rank=self.data_rank, name=data))
        self.reduce_scatter = ops.ReduceScatter(ops.ReduceOp.SUM, data) if self.reduces else None
        self.sum_group = ops.AllReduce(ops.ReduceOp.SUM, self.group.name)
        self.gather_group = GroupGather(self.group)

    @property
    def rows(self) -> MindSporeRanks | TensorGroups:
        """The ranks with rows of their own: these, or their tensor groups."""
        return self if self.mesh.tensor == 1 else TensorGroups(self)

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
        """The sum over the data-parallel ranks of every tensor (float32), reduced in flat buckets."""
        return self._summed("sum_gradients", self.all_reduce, gradients) if self.data_size > 1 else gradients

    def sum_tensor_group(self, gradients: list[Tensor]) -> list[Tensor]:
        """The sum over the tensor group of every tensor (float32), reduced in flat buckets."""
        return self._summed("sum_tensor_group", self.sum_group, gradients)

    def gather_tensor_group(self, own: Tensor) -> Tensor:
        """``[s]`` of all ranks of the tensor group end to end: ``[t s]``."""
        self._agree("gather_tensor_group", f"{own.shape[0]} values each")
        return self.gather_group(own)

    def _summed(self, name: str, reduce: ops.AllReduce, gradients: list[Tensor]) -> list[Tensor]:
        """The sums of tensors by one all-reduce for each bucket."""
        shapes = [tuple(gradient.shape) for gradient in gradients]
        sizes = [int(np.prod(shape)) for shape in shapes]
        self._agree(
            name,
            f"{len(sizes)} tensors, {sum(sizes)} values, shapes {zlib.crc32(repr(shapes).encode()):08x}",
        )
        summed: list[Tensor] = []
        for first, last in buckets(sizes, BUCKET):
            flat = reduce(flattened(gradients[first:last]))
            ends = np.cumsum(sizes[first:last]).tolist()
            summed += [
                flat[end - size : end].reshape(shape)
                for end, size, shape in zip(ends, sizes[first:last], shapes[first:last], strict=True)
            ]
        return summed

    def sum_to_owners(self, flat: Tensor) -> Tensor:
        """Sum ``[w s]`` float32 over the w data-parallel ranks; return the s numbers that this rank owns."""
        size = flat.shape[0] // self.data_size
        self._agree("sum_to_owners", f"{size} values each")
        if self.reduce_scatter is not None:
            return self.reduce_scatter(flat)
        return self.all_reduce(flat)[self.data_rank * size : (self.data_rank + 1) * size]

    def gather_slices(self, own: Tensor) -> Tensor:
        """``[s]`` of all data-parallel ranks end to end: ``[w s]``."""
        self._agree("gather_slices", f"{own.shape[0]} values each")
        return self.all_gather(own)

    def broadcast(self, values: NDArray[np.float32], source: int) -> NDArray[np.float32]:
        """A rank's values on every rank; the others give an array of their shape."""
        self.announce("broadcast", f"{values.shape} of rank {source}")
        if source not in self.broadcasts:
            self.broadcasts[source] = ops.Broadcast(source)
        (received,) = self.broadcasts[source]((Tensor(values),))
        return np.asarray(received.asnumpy())

    def announce(self, operation: str, details: str) -> None:
        """Verify that every rank is about to make this call."""
        self._agree(operation, details)

    def _agree(self, operation: str, details: str, item: Any = None) -> list[Any]:
        """Gather an item, and verify that every rank makes this call.

        Raises:
            RunFailed: another rank calls something else, or has left.
        """
        self.calls += 1
        announced_calls = self.link.gather((self.calls, operation, details, item))
        check_same(announced_calls)
        return [rank_item for *_, rank_item in announced_calls]


class TensorGroups:
    """Implements ``backend.RowRanks``: one rank for each tensor group, for which its first rank speaks."""

    def __init__(self, ranks: MindSporeRanks) -> None:
        self.ranks, self.mesh = ranks, ranks.mesh
        self.rank, self.world_size = ranks.data_rank, ranks.data_size

    def gather_objects(self, item: Any) -> list[Any]:
        """Every group's item, in the order of the groups; every rank calls it."""
        return self.ranks.gather_objects(item)[:: self.mesh.tensor]

    def once(self, compute: Callable[[], T]) -> T:
        """What the first rank of this group computes; every rank calls it."""
        first = self.mesh.tensor_rank(self.ranks.rank) == 0
        result: T = self.gather_objects(compute() if first else None)[self.rank]
        return result


class EngineRanks:
    """The ranks as the engine's layout groups them.

    Attributes:
        group: the ranks that hold slices of the engine's model together with this one.
    """

    def __init__(self, ranks: MindSporeRanks, mesh: Mesh) -> None:
        self.ranks, self.mesh, self.rank = ranks, mesh, ranks.rank
        self.group = tensor_group(mesh, ranks.rank)
        self.gather = GroupGather(self.group)

    def gather_tensor_group(self, own: Tensor) -> Tensor:
        """``[s]`` of all ranks of the engine's group end to end: ``[t s]``."""
        self.ranks.announce("gather_engine_group", f"{own.shape[0]} values each")
        return self.gather(own)


def tensor_group(mesh: Mesh, rank: int) -> TensorGroup:
    """The tensor group of a rank, known to MindSpore."""
    return TensorGroup(
        size=mesh.tensor, rank=mesh.tensor_rank(rank),
        name=group_name("tensor", mesh.tensor_group(rank), mesh.world_size),
    )  # fmt: skip


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


def group_name(kind: str, ranks: tuple[int, ...], world_size: int) -> str:
    """The name in MindSpore of a group of these ranks; each of them calls this.

    It is created unless it is the world, or one rank, which never communicates.
    """
    if len(ranks) in (1, world_size):
        return str(communication.GlobalComm.WORLD_COMM_GROUP)
    name = f"{kind}-{'-'.join(map(str, ranks))}"
    if name not in CREATED:
        communication.create_group(name, list(ranks))
        CREATED.add(name)
    return name


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


def connect(
    device_kind: str, settings: ParallelConfig | None = None, engine: EngineParallelConfig | None = None
) -> SingleProcess | MindSporeRanks:
    """The workers msrun announced in the environment, or a single process.

    Raises:
        ConfigError: ranks that are no whole number of tensor groups.
    """
    role = os.environ.get("MS_ROLE")
    if role == "MS_SCHED":
        schedule()
    if role == "MS_WORKER":
        return MindSporeRanks(device_kind, settings, engine)
    training_mesh(1, settings), engine_mesh(1, settings, engine)
    return SingleProcess()


def schedule() -> NoReturn:
    """Run as msrun's scheduler, which connects the workers and trains nothing.

    Raises:
        SystemExit: the workers are done.
        RunFailed: one of them has ended without finishing.
    """
    with as_run_failed("msrun's scheduler"):
        communication.init()
    raise SystemExit(0)
