"""The process group: one process, or the ranks that torchrun started.

Gradients are summed, never averaged: loss weights carry the denominators of the global batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.single_process import SingleProcess

T = TypeVar("T")
BUCKET = 8 * 1024 * 1024  # elements reduced at once
# What gloo and NCCL say when a partner is gone or silent.
LOST = re.compile(
    r"[\w ]*(?:closed by peer|reset by peer|timed? ?out|remote process exited|broken pipe)", re.IGNORECASE
)


class TorchRanks:
    """torch.distributed: gloo for host objects, the device's own backend for gradients."""

    def __init__(self, device_type: str) -> None:
        backend = {"cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}.get(device_type, "gloo")
        dist.init_process_group(backend)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.host = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo")

    @property
    def rows(self) -> TorchRanks:
        """Every rank has rows of its own."""
        return self

    def once(self, compute: Callable[[], T]) -> T:
        return compute()

    def gather_objects(self, item: Any) -> list[Any]:
        """Every rank's item, in rank order. Items are pickled in memory only, between ranks of one run."""
        items: list[Any] = [None] * self.world_size
        with others_present():
            dist.all_gather_object(items, item, group=self.host)
        return items

    def barrier(self) -> None:
        with others_present():
            dist.barrier(group=self.host)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Leave without destroying the group: that waits for ranks inside a collective, which wait for this one.

        The process ends next and closes its connections, which ends theirs.
        """

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over ranks, in float32 buckets; an absent one counts as zero."""
        bucket: list[Tensor] = []
        size = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            size += parameter.numel()
            if size >= BUCKET:
                sum_bucket(bucket)
                bucket, size = [], 0
        if bucket:
            sum_bucket(bucket)


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


def sum_bucket(gradients: list[Tensor]) -> None:
    """All-reduce a list of tensors as one flat float32 tensor."""
    flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
    with others_present():
        dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def connect(device_type: str, *, alone: bool = False) -> SingleProcess | TorchRanks:
    """The ranks torchrun announced in the environment, or a single process.

    Args:
        alone: treat a single process that torchrun started as ranks too, to shard and offload weights.
    """
    least = 1 if alone else 2
    if int(os.environ.get("WORLD_SIZE", "1")) >= least and "RANK" in os.environ:
        return TorchRanks(device_type)
    return SingleProcess()
