"""From one layout of weights on ranks to another: a plan of slice copies. Pure: nothing is communicated here.

A backend executes a plan with its own collectives; ``execute`` does it in NumPy on simulated ranks. What a layout
holds is written in *tensors*, the smallest weights either side knows (Hugging Face's): a fused parameter is several
of them along one axis, so that q, k and v can lie apart in training and in one matrix for generation.
``parameter_names.py`` says which tensors a parameter consists of.
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
Held = Mapping[str, NDArray[Any]]


class Place(NamedTuple):
    """A rank's pipeline stage, its data-parallel replica and its tensor-parallel shard."""

    stage: int
    replica: int
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many ranks share what: rank = (stage * dp + replica) * tp + shard.

    Attributes:
        sharded: replicas share every parameter out along its first axis instead of each holding it (FSDP, ZeRO-3).

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

    def place(self, rank: int) -> Place:
        return Place(rank // (self.dp * self.tp), rank // self.tp % self.dp, rank % self.tp)

    def check_inference(self) -> None:
        """Generation runs all layers on every rank.

        Raises:
            ConfigError: more than one pipeline stage.
        """
        if self.pp > 1:
            raise ConfigError(f"a layout for generation has one pipeline stage, not {self.pp}; accepted: pp = 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one tensor that a parameter holds along its axis, in this order.

    Attributes:
        rows: spans (start, stop) of the tensor; they are cut over tensor-parallel ranks as if they were one.
        unit: rows that stay together, a head's; with fewer units than ranks, ranks share them.
    """

    tensor: str
    rows: tuple[tuple[int, int], ...]
    unit: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A weight of a model as one of its sides holds it.

    Attributes:
        shape: of the whole.
        axis: along which tensor-parallel ranks share it; None: each holds it whole.
        layer: which layer it goes with, for pipeline stages: what comes before the first layer with that one.
        parts: what it consists of along ``axis`` (the first one for None); empty: the tensor of its own name.
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

    def whole(self) -> tuple[Part, ...]:
        """Its parts, the tensor of its own name where none are given."""
        return self.parts or (Part(tensor=self.name, rows=((0, self.shape[self.joined]),)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A box of a tensor, and where it begins in the parameter of a rank that holds it."""

    parameter: str
    tensor: str
    box: Box
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A box of a rank's parameter goes into a box of another's."""

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
class Plan:
    """All copies, in the order of the target's parameters.

    Attributes:
        sources, targets: shapes of what each rank holds before and after.
    """

    copies: tuple[Copy, ...]
    sources: tuple[dict[str, tuple[int, ...]], ...]
    targets: tuple[dict[str, tuple[int, ...]], ...]

    def steps(self, level: int) -> list[tuple[Copy, ...]]:
        """What is copied at once. 0: everything, source and target both on the device; 1: one parameter after
        another, source and target both in host memory but for that one.

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

    def peak_elements(self, level: int) -> list[int]:
        """The most weights a rank has on its device during the copies, by rank."""
        ranks = range(max(len(self.sources), len(self.targets)))
        return [max(self.resident(step, rank, level) for step in self.steps(level)) for rank in ranks]

    def resident(self, step: Sequence[Copy], rank: int, level: int) -> int:
        """Weights on a rank's device during one step."""
        source = self.sources[rank] if rank < len(self.sources) else {}
        target = self.targets[rank] if rank < len(self.targets) else {}
        if level == 0:
            return sum(map(math.prod, source.values())) + sum(map(math.prod, target.values()))
        read = {copy.source_parameter for copy in step if copy.source == rank}
        written = {copy.target_parameter for copy in step if copy.target == rank}
        return sum(math.prod(source[name]) for name in read) + sum(math.prod(target[name]) for name in written)


def plan(
    source: Layout,
    held: Sequence[Parameter],
    target: Layout,
    wanted: Sequence[Parameter],
    *,
    only: int | None = None,
) -> Plan:
    """Copies that bring every wanted parameter of the target's ranks together from what the source's ranks hold.

    A rank reads what it holds itself before what another holds; the others take turns among replicas.

    Args:
        only: plan for this rank of the target alone.

    Raises:
        ConfigError: rows of a wanted parameter that no rank holds, or heads that the ranks cannot share.
    """
    holders: dict[str, dict[Box, list[tuple[int, Block]]]] = {}
    for rank in range(source.ranks):
        for block in blocks(source, held, rank):
            holders.setdefault(block.tensor, {}).setdefault(block.box, []).append((rank, block))
    copies = [
        copy
        for rank in (range(target.ranks) if only is None else [only])
        for block in blocks(target, wanted, rank)
        for copy in copies_into(rank, block, holders.get(block.tensor, {}))
    ]
    order = {parameter.name: place for place, parameter in enumerate(wanted)}
    copies.sort(key=lambda copy: (order[copy.target_parameter], copy.target))
    return Plan(copies=tuple(copies), sources=shapes(source, held), targets=shapes(target, wanted))


def copies_into(rank: int, block: Block, holders: Mapping[Box, list[tuple[int, Block]]]) -> Iterator[Copy]:
    """What fills one block of a rank."""
    found = 0
    for box, held in holders.items():
        common = intersection(block.box, box)
        if common is None:
            continue
        source, own = next((pair for pair in held if pair[0] == rank), held[rank % len(held)])
        copy = Copy(
            source=source, source_parameter=own.parameter, source_box=local(common, own),
            target=rank, target_parameter=block.parameter, target_box=local(common, block),
        )  # fmt: skip
        found += copy.elements
        yield copy
    if found != volume(block.box):
        raise ConfigError(
            f"parameter {block.parameter!r} needs {volume(block.box)} weights of {block.tensor!r}, "
            f"of which the source holds {found}"
        )


def blocks(layout: Layout, parameters: Sequence[Parameter], rank: int) -> Iterator[Block]:
    """What a rank holds, box by box."""
    layers = 1 + max((parameter.layer for parameter in parameters), default=0)
    for parameter in parameters:
        if parameter.layer * layout.pp // layers == layout.place(rank).stage:
            yield from blocks_of(layout, parameter, layout.place(rank))


def blocks_of(layout: Layout, parameter: Parameter, place: Place) -> Iterator[Block]:
    """The boxes of one parameter at one place."""
    if not parameter.shape:
        yield Block(parameter=parameter.name, tensor=parameter.whole()[0].tensor if parameter.parts else parameter.name,
                    box=(), at=())  # fmt: skip
        return
    axis = parameter.joined
    rows = [(part.tensor, span) for part in parameter.whole() for span in shared(part, parameter, layout, place)]
    others = [(0, size) for size in parameter.shape]
    if layout.sharded and axis == 0:
        rows = cut(rows, place.replica, layout.dp)
    elif layout.sharded:
        others[0] = chunk(parameter.shape[0], place.replica, layout.dp)
    begin = 0
    for tensor, (start, stop) in rows:
        box = tuple((start, stop) if dim == axis else span for dim, span in enumerate(others))
        at = tuple(begin if dim == axis else 0 for dim in range(len(others)))
        begin += stop - start
        if volume(box):
            yield Block(parameter=parameter.name, tensor=tensor, box=box, at=at)


def shared(part: Part, parameter: Parameter, layout: Layout, place: Place) -> list[tuple[int, int]]:
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
    spans = cut([(part.tensor, span) for span in part.rows], place.shard * shards // layout.tp, shards)
    return [span for _, span in spans]


def cut(rows: Sequence[tuple[str, tuple[int, int]]], index: int, count: int) -> list[tuple[str, tuple[int, int]]]:
    """The ``index``-th of ``count`` chunks of spans that lie one after another."""
    first, last = chunk(sum(stop - start for _, (start, stop) in rows), index, count)
    found: list[tuple[str, tuple[int, int]]] = []
    begin = 0
    for tensor, (start, stop) in rows:
        low, high = max(first - begin, 0) + start, min(last - begin, stop - start) + start
        if low < high:
            found.append((tensor, (low, high)))
        begin += stop - start
    return found


def chunk(size: int, index: int, count: int) -> tuple[int, int]:
    """Equal chunks rounded up, as ``torch.chunk`` and FSDP cut: the last ones may be short or empty."""
    length = -(-size // count)
    return min(index * length, size), min((index + 1) * length, size)


def shapes(layout: Layout, parameters: Sequence[Parameter]) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Of each rank: the shape of every parameter that it holds a part of."""
    found: list[dict[str, tuple[int, ...]]] = []
    for rank in range(layout.ranks):
        mine: dict[str, tuple[int, ...]] = {}
        for block in blocks(layout, parameters, rank):
            ends = tuple(at + stop - start for at, (start, stop) in zip(block.at, block.box, strict=True))
            before = mine.get(block.parameter, ends)
            mine[block.parameter] = tuple(map(max, before, ends))
        found.append(mine)
    return tuple(found)


def intersection(one: Box, other: Box) -> Box | None:
    """The box in both, None if it is empty."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def local(box: Box, block: Block) -> Box:
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


def share_out(layout: Layout, parameters: Sequence[Parameter], tensors: Held) -> list[dict[str, NDArray[Any]]]:
    """What every rank of a layout holds of whole tensors, as copies."""
    found: list[dict[str, NDArray[Any]]] = []
    for rank, of_rank in enumerate(shapes(layout, parameters)):
        mine = {name: np.empty(shape, next(iter(tensors.values())).dtype) for name, shape in of_rank.items()}
        for block in blocks(layout, parameters, rank):
            inside = local(block.box, block)
            mine[block.parameter][slices(inside)] = tensors[block.tensor][slices(block.box)]
        found.append(mine)
    return found


def execute(plan: Plan, held: Sequence[Held], *, level: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Carry a plan out in memory: what every rank of the target holds, from what every rank of the source holds."""
    dtypes = {name: array.dtype for of_rank in held for name, array in of_rank.items()}
    found: list[dict[str, NDArray[Any]]] = [{} for _ in plan.targets]
    for step in plan.steps(level):
        for copy in step:
            name, mine = copy.target_parameter, found[copy.target]
            if name not in mine:
                mine[name] = np.empty(plan.targets[copy.target][name], dtypes[copy.source_parameter])
            read = held[copy.source][copy.source_parameter][slices(copy.source_box)]
            mine[name][slices(copy.target_box)] = read
    return found
