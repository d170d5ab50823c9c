"""Tensor parallelism (Megatron-LM, https://arxiv.org/abs/1909.08053): the ranks of a group hold slices of every matrix.

The first matrix of a block is cut by outputs, the second by inputs, so each block needs one sum forwards and one
backwards; both are collectives inside the compiled graph, in cells whose backward pass is written by hand. A graph is
the same on all ranks of a group, which call it in the same order on the same rows: MindSpore keeps the order of the
collectives of a graph, and these are all on one chain. Whatever is not cut, each rank computes in full: the stream
between blocks, norms, the router of experts, value heads.
Legend: t ranks of the group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn
from mindspore import ops as native

from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.parallel.parameter_names import divided_axis


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """The ranks that hold one model in slices.

    Attributes:
        size: t; 1: this rank holds whole matrices.
        rank: the place of this process in the group, and so of its slices.
        name: the group's name in MindSpore.
    """

    size: int = 1
    rank: int = 0
    name: str = ""

    def own(self, architecture: Architecture) -> Architecture:
        """The architecture that one rank computes: its share of the heads; other sizes follow from its weights."""
        if self.size == 1:
            return architecture
        return replace(architecture, heads=architecture.heads // self.size, kv_heads=architecture.kv_heads // self.size)

    def divides_inputs(self, module: str) -> bool:
        """True if the matrix of a module is cut by its inputs, so that products must be summed over the group."""
        return self.size > 1 and divided_axis(f"{module}.weight", 2) == 1


ALONE = TensorGroup()


class EnterSlices(nn.Cell):
    """From what every rank holds in full to matrices cut by outputs; the backward pass sums over the group."""

    def __init__(self, group: TensorGroup) -> None:
        super().__init__(auto_prefix=False)
        self.sum = native.AllReduce(native.ReduceOp.SUM, group.name)

    def construct(self, x: Tensor) -> Tensor:
        return x

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (self.sum(dout),)


class LeaveSlices(nn.Cell):
    """Sum over the group: from products of matrices cut by inputs to what every rank holds in full."""

    def __init__(self, group: TensorGroup) -> None:
        super().__init__(auto_prefix=False)
        self.sum = native.AllReduce(native.ReduceOp.SUM, group.name)

    def construct(self, x: Tensor) -> Tensor:
        return self.sum(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (dout,)


class GroupGather(nn.Cell):
    """The parts of all ranks of a group end to end, ``[s, ...]`` -> ``[t s, ...]``; without a gradient.

    mccl, the collectives of MindSpore's processor target, gathers from all ranks of a job only. In a smaller group each
    part there lies among zeros, and the ranks' tensors are summed.
    """

    def __init__(self, group: TensorGroup) -> None:
        super().__init__(auto_prefix=False)
        world = communication.GlobalComm.WORLD_COMM_GROUP
        self.native = group.name == world or ms.get_context("device_target") != "CPU"
        self.gather = native.AllGather(group.name)
        self.sum = native.AllReduce(native.ReduceOp.SUM, group.name)
        self.own = Tensor((np.arange(group.size) == group.rank).reshape(-1, 1))

    def construct(self, x: Tensor) -> Tensor:
        if self.native:
            return self.gather(x)
        flat = x.reshape(1, -1)
        return self.sum(native.where(self.own, flat, native.zeros_like(flat))).reshape(-1, *x.shape[1:])


def enter(group: TensorGroup) -> nn.Cell:
    """The way into a block: nothing where this rank holds whole matrices."""
    return EnterSlices(group) if group.size > 1 else nn.Identity()


class SlicedEmbedding(nn.Cell):
    """Rows of an embedding of which this rank holds a slice: ids of other slices read zeros, and the group sums."""

    def __init__(self, weight: Tensor, group: TensorGroup) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.first, self.count = weight, group.rank * weight.shape[0], weight.shape[0]
        self.leave = LeaveSlices(group)

    def construct(self, ids: Tensor) -> Tensor:
        """``[S]`` int32 -> ``[S, E]``."""
        places = ids - self.first
        inside = native.logical_and(places >= 0, places < self.count)
        rows = native.gather(self.weight, places * inside.astype(ms.int32), 0)
        return self.leave(rows * inside.astype(rows.dtype).reshape(-1, 1))


class GatherSlices(nn.Cell):
    """All ranks' columns side by side: ``[n, V / t]`` -> ``[n, V]``; without a gradient."""

    def __init__(self, group: TensorGroup) -> None:
        super().__init__(auto_prefix=False)
        self.group = group
        self.gather = GroupGather(group)

    def construct(self, x: Tensor) -> Tensor:
        rows, columns = x.shape
        return self.gather(x).reshape(self.group.size, rows, columns).transpose(1, 0, 2).reshape(rows, -1)
