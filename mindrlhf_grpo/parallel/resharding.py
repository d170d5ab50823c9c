"""Resharding: the plan of slice copies from one layout of weights on ranks to another. Nothing is communicated here.

A backend executes a plan with its own collectives; ``execute`` does it in NumPy on simulated ranks. Plans are written
in *tensors*, the smallest weights either side knows (Hugging Face's): a fused parameter is several of them along one
axis, so that q, k and v can be separate in training and one matrix for generation. ``parameter_names`` maps
parameters to tensors.
Legend: a box is (start, stop) on every axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

Box = tuple[tuple[int, int], ...]
RankArrays = Mapping[str, NDArray[Any]]


class RankPlace(NamedTuple):
    """A rank's pipeline stage, its data-parallel replica and its tensor-parallel shard."""

    stage: int
    replica: int
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLayout:
    """Data-, tensor- and pipeline-parallel sizes: rank = (stage * dp + replica) * tp + shard.

    Attributes:
        sharded: replicas divide every parameter along its first axis instead of each holding it (FSDP, ZeRO-3).

    Raises:
        ConfigError: a number below 1.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    sharded: bool = False

    def __post_init__(self) -> None:
        for name in ("dp", "tp", "pp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"a layout's {name} must be at least 1, not {getattr(self, name)}")

    @property
    def ranks(self) -> int:
        return self.dp * self.tp * self.pp

    def place(self, rank: int) -> RankPlace:
        return RankPlace(rank // (self.dp * self.tp), rank // self.tp % self.dp, rank % self.tp)

    def check_inference(self) -> None:
        """Check that the layout can generate: every rank runs all layers.

        Raises:
            ConfigError: more than one pipeline stage.
        """
        if self.pp > 1:
            raise ConfigError(f"a layout for generation has one pipeline stage, not {self.pp}; accepted: pp = 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of one tensor that a parameter holds along its axis, in order.

    Attributes:
        rows: spans (start, stop) of the tensor; tensor-parallel ranks divide them as if they were one span.
        unit: rows that stay together, such as those of a head; with fewer units than ranks, several ranks hold one.
    """

    tensor: str
    rows: tuple[tuple[int, int], ...]
    unit: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A weight of the training or of the generating model.

    Attributes:
        shape: the full shape, over all ranks.
        axis: the axis that tensor-parallel ranks divide; None: each rank holds all of it.
        layer: the layer whose pipeline stage holds it; weights before the first layer go with that one.
        parts: the tensors it consists of along ``axis`` (the first axis for None); empty: the tensor of its own name.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None = None
    layer: int = 0
    parts: tuple[Part, ...] = ()

    @property
    def joined(self) -> int:
        """The axis along which its parts lie."""
        return self.axis or 0

    def all_parts(self) -> tuple[Part, ...]:
        """The parts; the tensor of its own name where none are listed."""
        return self.parts or (Part(tensor=self.name, rows=((0, self.shape[self.joined]),)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A box of a tensor, and its first place in the parameter of a rank that holds it."""

    parameter: str
    tensor: str
    box: Box
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy: from a box of one rank's parameter into a box of another's."""

    source: int
    source_parameter: str
    source_box: Box
    target: int
    target_parameter: str
    target_box: Box

    @property
    def elements(self) -> int:
        return volume(self.target_box)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshardingPlan:
    """All copies, in the order of the target's parameters.

    Attributes:
        sources, targets: shapes of the parameters on each rank, before and after.
    """

    copies: tuple[Copy, ...]
    sources: tuple[dict[str, tuple[int, ...]], ...]
    targets: tuple[dict[str, tuple[int, ...]], ...]

    def steps(self, level: int) -> list[tuple[Copy, ...]]:
        """Groups of copies that happen at once.

        Level 0: all of them, with source and target on the device. Level 1: one parameter after another, with the
        rest of source and target in host memory.

        Raises:
            ConfigError: another level.
        """
        if level not in (0, 1):
            raise ConfigError(f"reshard_mem_opt_level is {level!r}; accepted: 0 (both resident), 1 (both offloaded)")
        if level == 0:
            return [self.copies]
        by_name: dict[str, list[Copy]] = {}
        for copy in self.copies:
            by_name.setdefault(copy.target_parameter, []).append(copy)
        return [tuple(copies) for copies in by_name.values()]

    def buckets(self, elements: int) -> list[tuple[Copy, ...]]:
        """Groups of copies that travel at once: whole parameters, together at most so many elements unless one is larger."""
        groups: list[list[Copy]] = []
        size = 0
        for step in self.steps(1):
            wanted = sum(copy.elements for copy in step)
            if not groups or size + wanted > elements:
                groups.append([])
                size = 0
            groups[-1].extend(step)
            size += wanted
        return [tuple(group) for group in groups]

    def moved_elements(self) -> list[tuple[int, int]]:
        """Elements that each rank sends to and receives from others; what it reads from its own part does not move."""
        moved = [[0, 0] for _ in range(max(len(self.sources), len(self.targets)))]
        for copy in self.copies:
            if copy.source != copy.target:
                moved[copy.source][0] += copy.elements
                moved[copy.target][1] += copy.elements
        return [(sent, received) for sent, received in moved]

    def staged_elements(self, elements: int) -> list[int]:
        """The most elements that each rank has on the way at once, sent and received, in buckets of this size."""
        ranks = range(max(len(self.sources), len(self.targets)))
        peaks = [0 for _ in ranks]
        for bucket in self.buckets(elements):
            for rank in ranks:
                moving = (copy for copy in bucket if copy.source != copy.target and rank in (copy.source, copy.target))
                peaks[rank] = max(peaks[rank], sum(copy.elements for copy in moving))
        return peaks

    def peak_elements(self, level: int) -> list[int]:
        """The largest number of weights on each rank's device during the copies."""
        ranks = range(max(len(self.sources), len(self.targets)))
        return [max(self.resident(step, rank, level) for step in self.steps(level)) for rank in ranks]

    def resident(self, step: Sequence[Copy], rank: int, level: int) -> int:
        """Number of weights on a rank's device during one step."""
        source = self.sources[rank] if rank < len(self.sources) else {}
        target = self.targets[rank] if rank < len(self.targets) else {}
        if level == 0:
            return sum(map(math.prod, source.values())) + sum(map(math.prod, target.values()))
        read = {copy.source_parameter for copy in step if copy.source == rank}
        written = {copy.target_parameter for copy in step if copy.target == rank}
        return sum(math.prod(source[name]) for name in read) + sum(math.prod(target[name]) for name in written)


def plan_resharding(
    source: RankLayout,
    source_parameters: Sequence[Parameter],
    target: RankLayout,
    target_parameters: Sequence[Parameter],
    *,
    only: int | None = None,
) -> ReshardingPlan:
    """Plan the copies that fill every parameter on the target's ranks from the shards of the source's ranks.

    A rank reads its own weights before another's; where it must read another's, replicas take turns.

    Args:
        only: plan for this rank of the target alone.

    Raises:
        ConfigError: rows of a target parameter that no rank holds, or heads that the ranks cannot divide.
    """
    holders: dict[str, dict[Box, list[tuple[int, Block]]]] = {}
    for rank in range(source.ranks):
        for block in rank_blocks(source, source_parameters, rank):
            holders.setdefault(block.tensor, {}).setdefault(block.box, []).append((rank, block))
    copies = [
        copy
        for rank in (range(target.ranks) if only is None else [only])
        for block in rank_blocks(target, target_parameters, rank)
        for copy in copies_into(rank, block, holders.get(block.tensor, {}))
    ]
    order = {parameter.name: place for place, parameter in enumerate(target_parameters)}
    copies.sort(key=lambda copy: (order[copy.target_parameter], copy.target))
    return ReshardingPlan(
        copies=tuple(copies),
        sources=rank_shapes(source, source_parameters),
        targets=rank_shapes(target, target_parameters),
    )


def copies_into(rank: int, block: Block, holders: Mapping[Box, list[tuple[int, Block]]]) -> Iterator[Copy]:
    """The copies that fill one block of a rank."""
    copied = 0
    for box, held in holders.items():
        common = intersection(block.box, box)
        if common is None:
            continue
        source, source_block = next((pair for pair in held if pair[0] == rank), held[rank % len(held)])
        copy = Copy(
            source=source, source_parameter=source_block.parameter, source_box=box_in_parameter(common, source_block),
            target=rank, target_parameter=block.parameter, target_box=box_in_parameter(common, block),
        )  # fmt: skip
        copied += copy.elements
        yield copy
    if copied != volume(block.box):
        raise ConfigError(
            f"parameter {block.parameter!r} needs {volume(block.box)} weights of {block.tensor!r}, "
            f"of which the source holds {copied}"
        )


def rank_blocks(layout: RankLayout, parameters: Sequence[Parameter], rank: int) -> Iterator[Block]:
    """The blocks that a rank holds."""
    layers = 1 + max((parameter.layer for parameter in parameters), default=0)
    for parameter in parameters:
        if parameter.layer * layout.pp // layers == layout.place(rank).stage:
            yield from parameter_blocks(layout, parameter, layout.place(rank))


def parameter_blocks(layout: RankLayout, parameter: Parameter, place: RankPlace) -> Iterator[Block]:
    """The blocks of one parameter at one place."""
    if not parameter.shape:
        yield Block(parameter=parameter.name, tensor=parameter.all_parts()[0].tensor if parameter.parts else parameter.name,
                    box=(), at=())  # fmt: skip
        return
    axis = parameter.joined
    rows = [
        (part.tensor, span) for part in parameter.all_parts() for span in shard_rows(part, parameter, layout, place)
    ]
    others = [(0, size) for size in parameter.shape]
    if layout.sharded and axis == 0:
        rows = span_chunk(rows, place.replica, layout.dp)
    elif layout.sharded:
        others[0] = chunk(parameter.shape[0], place.replica, layout.dp)
    begin = 0
    for tensor, (start, stop) in rows:
        box = tuple((start, stop) if dim == axis else span for dim, span in enumerate(others))
        at = tuple(begin if dim == axis else 0 for dim in range(len(others)))
        begin += stop - start
        if volume(box):
            yield Block(parameter=parameter.name, tensor=tensor, box=box, at=at)


def shard_rows(part: Part, parameter: Parameter, layout: RankLayout, place: RankPlace) -> list[tuple[int, int]]:
    """The rows of a part that a tensor-parallel shard holds.

    Raises:
        ConfigError: units that cannot be shared evenly.
    """
    if parameter.axis is None or layout.tp == 1:
        return list(part.rows)
    units = sum(stop - start for start, stop in part.rows) // part.unit
    shards = min(layout.tp, units) if part.unit > 1 else layout.tp
    if part.unit > 1 and (units % shards or layout.tp % shards):
        raise ConfigError(f"{part.tensor!r}: {units} heads cannot be shared by {layout.tp} tensor-parallel ranks")
    spans = span_chunk([(part.tensor, span) for span in part.rows], place.shard * shards // layout.tp, shards)
    return [span for _, span in spans]


def span_chunk(
    rows: Sequence[tuple[str, tuple[int, int]]], index: int, count: int
) -> list[tuple[str, tuple[int, int]]]:
    """The ``index``-th of ``count`` chunks of consecutive spans."""
    first, last = chunk(sum(stop - start for _, (start, stop) in rows), index, count)
    chunk_spans: list[tuple[str, tuple[int, int]]] = []
    begin = 0
    for tensor, (start, stop) in rows:
        low, high = max(first - begin, 0) + start, min(last - begin, stop - start) + start
        if low < high:
            chunk_spans.append((tensor, (low, high)))
        begin += stop - start
    return chunk_spans


def chunk(size: int, index: int, count: int) -> tuple[int, int]:
    """Bounds of one of equal chunks, rounded up as in ``torch.chunk`` and FSDP: the last may be short or empty."""
    length = -(-size // count)
    return min(index * length, size), min((index + 1) * length, size)


def rank_shapes(layout: RankLayout, parameters: Sequence[Parameter]) -> tuple[dict[str, tuple[int, ...]], ...]:
    """The shapes of the parameters on each rank, as far as it holds them."""
    all_ranks: list[dict[str, tuple[int, ...]]] = []
    for rank in range(layout.ranks):
        shapes: dict[str, tuple[int, ...]] = {}
        for block in rank_blocks(layout, parameters, rank):
            ends = tuple(at + stop - start for at, (start, stop) in zip(block.at, block.box, strict=True))
            before = shapes.get(block.parameter, ends)
            shapes[block.parameter] = tuple(map(max, before, ends))
        all_ranks.append(shapes)
    return tuple(all_ranks)


def intersection(one: Box, other: Box) -> Box | None:
    """The common part of two boxes, None if it is empty."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def box_in_parameter(box: Box, block: Block) -> Box:
    """A box of a tensor as a box of the parameter that holds the block."""
    return tuple(
        (start - first + at, stop - first + at)
        for (start, stop), (first, _), at in zip(box, block.box, block.at, strict=True)
    )


def volume(box: Box) -> int:
    return math.prod(stop - start for start, stop in box)


def slices(box: Box) -> tuple[slice, ...]:
    """The box as an index."""
    return tuple(slice(start, stop) for start, stop in box)


def shard_tensors(
    layout: RankLayout, parameters: Sequence[Parameter], tensors: RankArrays
) -> list[dict[str, NDArray[Any]]]:
    """Cut full tensors into the parameters of every rank, as copies."""
    dtype = next(iter(tensors.values())).dtype
    all_ranks: list[dict[str, NDArray[Any]]] = []
    for rank, shapes in enumerate(rank_shapes(layout, parameters)):
        arrays = {name: np.empty(shape, dtype) for name, shape in shapes.items()}
        for block in rank_blocks(layout, parameters, rank):
            inside = box_in_parameter(block.box, block)
            arrays[block.parameter][slices(inside)] = tensors[block.tensor][slices(block.box)]
        all_ranks.append(arrays)
    return all_ranks


def execute(plan: ReshardingPlan, sources: Sequence[RankArrays], *, level: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Carry a plan out in memory: the parameters of every rank of the target from those of every rank of the source."""
    dtypes = {name: array.dtype for arrays in sources for name, array in arrays.items()}
    targets: list[dict[str, NDArray[Any]]] = [{} for _ in plan.targets]
    for step in plan.steps(level):
        for copy in step:
            name, arrays = copy.target_parameter, targets[copy.target]
            if name not in arrays:
                arrays[name] = np.empty(plan.targets[copy.target][name], dtypes[copy.source_parameter])
            read = sources[copy.source][copy.source_parameter][slices(copy.source_box)]
            arrays[name][slices(copy.target_box)] = read
    return targets
