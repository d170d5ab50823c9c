"""This rank's slices of a model's weights, cut as the core says, and whole weights made of all ranks' slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.model_files.folder import TensorInfo
from mindrlhf_grpo.model_files.safetensors import read_box
from mindrlhf_grpo.parallel.mesh import Mesh
from mindrlhf_grpo.parallel.parameter_names import describe_parameters, head_sizes
from mindrlhf_grpo.parallel.resharding import Block, Box, box_in_parameter, intersection, parameter_blocks, slices

Shape = tuple[int, ...]
Floats = NDArray[np.float32]


class Ranks(Protocol):
    """The ranks of a run, as far as slices are gathered over them."""

    rank: int

    def gather_tensor_group(self, own: Tensor) -> Tensor: ...  # all ranks' ``[s]`` end to end, in rank order


class WeightSlices:
    """The slices of one rank.

    Args:
        mesh: how the ranks divide the weights.
        comm: gathers them; None: this rank's slices alone are known.
    """

    def __init__(self, architecture: Architecture, mesh: Mesh | None = None, comm: Ranks | None = None) -> None:
        self.mesh, self.comm = mesh or Mesh(), comm
        self.rank = 0 if comm is None else comm.rank
        self.heads = head_sizes(architecture)
        self.shapes: dict[str, Shape] = {}  # of whole weights that are cut

    @property
    def divided(self) -> bool:
        """Whether any weight is cut."""
        return self.mesh.tensor > 1

    def is_cut(self, name: str) -> bool:
        """Whether this rank holds a slice of a weight that it has read, not all of it."""
        return name in self.shapes

    def blocks(self, name: str, shape: Shape, rank: int) -> list[Block]:
        """The boxes of a whole weight that a rank holds, and their places in its slice."""
        (parameter,) = describe_parameters({name: shape}, self.heads)
        layout = self.mesh.layout
        return list(parameter_blocks(layout, parameter, layout.place(rank)))

    def slice_shape(self, name: str, shape: Shape) -> Shape:
        """The shape of this rank's slice of a whole weight, which is known from then on."""
        own = extent(self.blocks(name, shape, self.rank)) if self.divided and shape else shape
        if own != shape:
            self.shapes[name] = shape
        return own

    def of_parts(self, name: str, shape: Shape, parts: list[tuple[Path, TensorInfo]]) -> Floats:
        """Read this rank's slice of a weight from the tensors that lie in it one after another, and nothing more."""
        wanted = self.blocks(name, shape, self.rank) if self.divided else []
        own = extent(wanted) if wanted else shape
        if own == shape:
            arrays = [read_box(*part) for part in parts]
            return arrays[0] if len(arrays) == 1 else np.stack(arrays).reshape(shape)
        self.shapes[name] = shape
        values = np.empty(own, np.float32)
        boxes = part_boxes(shape, len(parts))
        for block in wanted:
            for box, (path, info) in zip(boxes, parts, strict=True):
                common = intersection(block.box, box)
                if common is not None:
                    inside = within(common, box)[len(shape) - len(info.shape) :]
                    values[slices(box_in_parameter(common, block))] = read_box(path, info, inside).reshape(
                        [stop - start for start, stop in common]
                    )
        return values

    def cut(self, name: str, values: Floats) -> Floats:
        """This rank's slice of whole values."""
        shape = values.shape
        if not self.divided or not shape:
            return values
        blocks = self.blocks(name, shape, self.rank)
        if extent(blocks) == shape:
            return values
        self.shapes[name] = shape
        own = np.empty(extent(blocks), np.float32)
        for block in blocks:
            own[slices(box_in_parameter(block.box, block))] = values[slices(block.box)]
        return own

    def whole_shape(self, name: str, own: Shape) -> Shape:
        """The shape of a whole weight, from that of this rank's slice."""
        return self.shapes.get(name, own)

    def whole(self, name: str, own: Tensor | Floats) -> Floats:
        """A whole weight, or a tensor cut like it, from the slices of all ranks, in float32; every rank calls it."""
        own = numbers(own) if isinstance(own, Tensor) else own
        if not self.is_cut(name):
            return own
        assert self.comm is not None
        shape = self.shapes[name]
        values = np.empty(shape, np.float32)
        ranks = self.mesh.tensor_group(self.rank)
        gathered = self.comm.gather_tensor_group(Tensor(own.reshape(-1))).asnumpy()
        for rank, flat in zip(ranks, gathered.reshape(len(ranks), -1), strict=True):
            blocks = self.blocks(name, shape, rank)
            part = flat.reshape(extent(blocks))
            for block in blocks:
                values[slices(block.box)] = part[slices(box_in_parameter(block.box, block))]
        return values


class WholeWeights:
    """Whole weights by name, in float32.

    Args:
        slices: makes them of all ranks' slices, each when it is asked for: every rank must ask for the same ones, in
            one order. None: the weights are whole.
    """

    def __init__(self, weights: Mapping[str, Tensor], slices: WeightSlices | None = None) -> None:
        self.weights, self.slices = weights, slices

    def __getitem__(self, name: str) -> Floats:
        return numbers(self.weights[name]) if self.slices is None else self.slices.whole(name, self.weights[name])


def extent(blocks: list[Block]) -> Shape:
    """The shape of a slice that consists of these blocks."""
    ends = [tuple(at + stop - start for at, (start, stop) in zip(block.at, block.box, strict=True)) for block in blocks]
    return tuple(map(max, *ends)) if len(ends) > 1 else ends[0]


def part_boxes(shape: Shape, count: int) -> list[Box]:
    """The boxes of equal parts that fill a tensor in order, along its first axis and then its second."""
    whole = tuple((0, size) for size in shape)
    if count == 1:
        return [whole]
    per_first = count // shape[0]
    rows = shape[1] // per_first
    return [
        ((number // per_first, number // per_first + 1), (number % per_first * rows, (number % per_first + 1) * rows), *whole[2:])
        for number in range(count)
    ]  # fmt: skip


def within(box: Box, outer: Box) -> Box:
    """A box as seen from the first corner of another that holds it."""
    return tuple((start - first, stop - first) for (start, stop), (first, _) in zip(box, outer, strict=True))


def numbers(weight: Tensor) -> Floats:
    """A weight's values in float32; a view where it is float32."""
    return np.asarray((weight if weight.dtype == ms.float32 else weight.astype(ms.float32)).asnumpy())
