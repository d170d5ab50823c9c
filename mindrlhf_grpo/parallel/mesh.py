"""The ranks of a run as a mesh: each row of it is a tensor group, which holds one model in slices.

rank = data rank * tensor size + tensor rank, as in ``resharding.RankLayout`` with one pipeline stage: neighbours form a
tensor group, so that it lies within a machine. The ranks of one group see the same rows; groups share out the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..config.parallel import EngineParallelConfig, ParallelConfig, Strategy
from ..errors import ConfigError
from ..model_files.architecture import Architecture
from .resharding import RankLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """World size and the size of a tensor group.

    Attributes:
        tensor: ranks of one tensor group.
        strategy: what groups share out between them: nothing, optimizer state, gradients, weights.
        key: the configuration key that gave ``tensor``, for messages.

    Raises:
        ConfigError: ranks that are no whole number of tensor groups.
    """

    world_size: int = 1
    tensor: int = 1
    strategy: Strategy = "replicate"
    key: str = "parallel.tensor"

    def __post_init__(self) -> None:
        if self.world_size % self.tensor:
            accepted = ", ".join(map(str, divisors(self.world_size)))
            raise ConfigError(
                f"{self.key} is {self.tensor}, and the run's {self.world_size} ranks are no whole number of groups of "
                f"{self.tensor}; accepted: {accepted}"
            )

    @property
    def data(self) -> int:
        """Number of tensor groups: the ranks that rows are shared out over (data-parallel size)."""
        return self.world_size // self.tensor

    def data_rank(self, rank: int) -> int:
        """The tensor group of a rank."""
        return rank // self.tensor

    def tensor_rank(self, rank: int) -> int:
        """The place of a rank in its tensor group: which slice of every weight it holds."""
        return rank % self.tensor

    def tensor_group(self, rank: int) -> tuple[int, ...]:
        """The ranks that hold one model together with this one, in the order of their slices."""
        first = rank - rank % self.tensor
        return tuple(range(first, first + self.tensor))

    def data_group(self, rank: int) -> tuple[int, ...]:
        """The ranks that hold the same slices as this one, for other rows: gradients are summed over them."""
        return tuple(range(rank % self.tensor, self.world_size, self.tensor))

    @property
    def tensor_groups(self) -> tuple[tuple[int, ...], ...]:
        """All tensor groups; every rank is in one."""
        return tuple(self.tensor_group(first) for first in range(0, self.world_size, self.tensor))

    @property
    def data_groups(self) -> tuple[tuple[int, ...], ...]:
        """All data-parallel groups; every rank is in one."""
        return tuple(self.data_group(first) for first in range(self.tensor))

    @property
    def layout(self) -> RankLayout:
        """The layout of the weights over the ranks, for resharding."""
        return RankLayout(dp=self.data, tp=self.tensor, sharded=self.strategy == "fsdp")


def training_mesh(world_size: int, settings: ParallelConfig | None) -> Mesh:
    """The mesh of the trained models.

    Raises:
        ConfigError: ``parallel.tensor`` does not divide the number of ranks.
    """
    if settings is None:
        return Mesh(world_size=world_size)
    return Mesh(world_size=world_size, tensor=settings.tensor, strategy=settings.strategy)


def engine_mesh(world_size: int, settings: ParallelConfig | None, engine: EngineParallelConfig | None) -> Mesh:
    """The mesh of the engine: its own, else tensor groups as in training; no group shares weights out further.

    Raises:
        ConfigError: ``rollout.parallel.tensor`` does not divide the number of ranks.
    """
    if engine is not None:
        return Mesh(world_size=world_size, tensor=engine.tensor, key="rollout.parallel.tensor")
    return Mesh(world_size=world_size, tensor=1 if settings is None else settings.tensor)


def check_sizes(model: Architecture, tensor: int, key: str = "parallel.tensor") -> None:
    """Check that a model can be cut into so many slices.

    Raises:
        ConfigError: heads, an inner width or the vocabulary cannot be divided by it; it names each, and what can.
    """
    sizes = dict(divided_sizes(model))
    if wrong := [f"{name} ({size})" for name, size in sizes.items() if size % tensor]:
        largest = min(sizes.values())
        fitting = [count for count in range(1, largest + 1) if all(size % count == 0 for size in sizes.values())]
        raise ConfigError(
            f"{key} is {tensor}, which does not divide {', '.join(wrong)} of the model ({model.family}); "
            f"accepted: {', '.join(map(str, fitting))}"
        )


def divided_sizes(model: Architecture) -> Iterator[tuple[str, int]]:
    """The sizes that tensor-parallel ranks divide, by their names in ``config.json``."""
    yield "num_attention_heads", model.heads
    if model.latent is None:
        yield "num_key_value_heads", model.kv_heads
    yield "intermediate_size", model.inner
    if model.experts is not None:
        yield "moe_intermediate_size", model.experts.inner
        if model.experts.shared:
            yield "width of the shared experts", model.experts.shared
    yield "vocab_size", model.vocabulary


def divisors(count: int) -> list[int]:
    """All divisors, from 1 to the number itself."""
    return [size for size in range(1, count + 1) if count % size == 0]
