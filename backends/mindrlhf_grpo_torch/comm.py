"""The process group: one process, or the ranks that torchrun started.

Gradients are summed, never averaged: loss weights carry the denominators of the global batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mindrlhf_grpo.config.parallel import TIMEOUT, EngineParallelConfig, ParallelConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.mesh import engine_mesh, training_mesh
from mindrlhf_grpo.parallel.single_process import SingleProcess

from .models.hf import local

T = TypeVar("T")
BUCKET = 8 * 1024 * 1024  # elements reduced at once
# What gloo and NCCL say when a partner is gone or silent.
LOST = re.compile(
    r"[\w ]*(?:closed by peer|reset by peer|timed? ?out|remote process exited|broken pipe)", re.IGNORECASE
)


class Group:
    """Some of a run's ranks that compute together, this one among them.

    Attributes:
        ranks: their numbers in the run, in the order of their places here.
        place: this rank's place.
        device: the process group of tensors; ``host``: that of objects.
    """

    def __init__(self, ranks: Sequence[int], rank: int, device: Any, host: Any) -> None:
        self.ranks, self.place = tuple(ranks), tuple(ranks).index(rank)
        self.device, self.host = device, host

    @property
    def size(self) -> int:
        return len(self.ranks)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the group, in place."""
        with others_present():
            dist.all_reduce(tensor, group=self.device)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor of one shape, in the order of the group."""
        pieces = [torch.empty_like(tensor) for _ in self.ranks]
        with others_present():
            dist.all_gather(pieces, tensor.contiguous(), group=self.device)
        return pieces

    def gather_objects(self, item: Any) -> list[Any]:
        """Every rank's item, in the order of the group. Items are pickled in memory only, between ranks of one run."""
        items: list[Any] = [None] * self.size
        with others_present():
            dist.all_gather_object(items, item, group=self.host)
        return items

    def once(self, compute: Callable[[], T]) -> T:
        """What the first rank of the group computes, on all of them."""
        item: list[Any] = [compute() if self.place == 0 else None]
        with others_present():
            dist.broadcast_object_list(item, src=self.ranks[0], group=self.host)
        computed: T = item[0]
        return computed

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the group, in float32 buckets; an absent one counts as zero."""
        bucket: list[Tensor] = []
        size = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(local(parameter.grad))
            size += bucket[-1].numel()
            if size >= BUCKET:
                sum_bucket(bucket, self)
                bucket, size = [], 0
        if bucket:
            sum_bucket(bucket, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """Implements ``backend.RowRanks``: a tensor group counts as one rank.

    Attributes:
        data: the ranks with the same slices as this one; ``tensor``: those with the same rows, None if it is alone.
    """

    data: Group
    tensor: Group | None

    @property
    def rank(self) -> int:
        return self.data.place

    @property
    def world_size(self) -> int:
        return self.data.size

    def gather_objects(self, item: Any) -> list[Any]:
        return self.data.gather_objects(item)

    def once(self, compute: Callable[[], T]) -> T:
        return compute() if self.tensor is None else self.tensor.once(compute)


class TorchRanks:
    """torch.distributed: gloo for host objects, the device's own backend for gradients.

    Attributes:
        mesh, engine_mesh: how training and generation divide a model.
        world: all ranks; ``tensor``: those that hold one trained model in slices, None where each holds it whole;
            ``engine``: the same for generation.

    Raises:
        ConfigError: ranks that are no whole number of tensor groups.
    """

    def __init__(
        self, device_type: str, parallel: ParallelConfig | None = None, engine: EngineParallelConfig | None = None
    ) -> None:
        backend = {"cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}.get(device_type, "gloo")
        if not dist.is_initialized():  # a program may divide its ranks anew
            dist.init_process_group(
                backend, timeout=timedelta(seconds=TIMEOUT if parallel is None else parallel.timeout)
            )
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.separate_host = backend != "gloo"
        self.groups: dict[tuple[int, ...], Group] = {}
        self.mesh = training_mesh(self.world_size, parallel)
        self.engine_mesh = engine_mesh(self.world_size, parallel, engine)
        self.world = self.group([tuple(range(self.world_size))])
        self.data = self.group(self.mesh.data_groups)
        self.tensor = self.group(self.mesh.tensor_groups) if self.mesh.tensor > 1 else None
        self.engine = self.group(self.engine_mesh.tensor_groups) if self.engine_mesh.tensor > 1 else None
        self.rows = RowGroups(data=self.data, tensor=self.tensor)

    def group(self, every: Iterable[tuple[int, ...]]) -> Group:
        """This rank's group among ones that all ranks are in; every rank must call it."""
        for ranks in every:
            if ranks in self.groups:
                continue
            whole = len(ranks) == self.world_size
            device = dist.group.WORLD if whole else dist.new_group(list(ranks))
            host = dist.new_group(list(ranks), backend="gloo") if self.separate_host else device
            if self.rank in ranks:
                self.groups[ranks] = Group(ranks, self.rank, device, host)
        return next(self.groups[ranks] for ranks in every if self.rank in ranks)

    def gather_objects(self, item: Any) -> list[Any]:
        """Every rank's item, in rank order. Items are pickled in memory only, between ranks of one run."""
        return self.world.gather_objects(item)

    def barrier(self) -> None:
        with others_present():
            dist.barrier(group=self.world.host)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Leave without destroying the group: that waits for ranks inside a collective, which wait for this one.

        The process ends next and closes its connections, which ends theirs.
        """

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the ranks that share out rows, see ``Group.sum_gradients``."""
        self.data.sum_gradients(parameters)


@contextmanager
def others_present() -> Iterator[None]:
    """Run a collective.

    Raises:
        RunFailed: another rank has ended, or did not come within the time limit.
    """
    try:
        yield
    except RuntimeError as error:
        found = LOST.search(str(error))
        if found is None:
            raise
        raise RunFailed(
            f"another rank has left the run; its log says why ({found[0].strip()}). The same command goes on after the last checkpoint"
        ) from None


def sum_bucket(gradients: list[Tensor], group: Group) -> None:
    """All-reduce a list of tensors as one flat float32 tensor."""
    flat = group.sum(torch.cat([gradient.reshape(-1).float() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def connect(
    device_type: str, parallel: ParallelConfig | None = None, engine: EngineParallelConfig | None = None
) -> SingleProcess | TorchRanks:
    """The ranks torchrun announced in the environment, or a single process.

    A single process that torchrun started is a rank too where weights are sharded, so that it can offload them.

    Raises:
        ConfigError: ranks that are no whole number of tensor groups.
    """
    least = 1 if parallel is not None and parallel.strategy != "replicate" else 2
    if int(os.environ.get("WORLD_SIZE", "1")) >= least and "RANK" in os.environ:
        return TorchRanks(device_type, parallel, engine)
    training_mesh(1, parallel), engine_mesh(1, parallel, engine)  # refuse slices that one process cannot hold
    return SingleProcess()
