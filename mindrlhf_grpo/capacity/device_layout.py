"""The layout of a model on devices: the share of its weights, gradients and optimizer state that one of them holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..config.parallel import Strategy

NODE = 8  # devices with fast links between them: tensor parallelism stays inside
NODES = tuple(2**power for power in range(8))  # of the layouts that are looked at
DEPTHS = (1, 2, 4, 8, 16)
MOST_EXPERT_PARALLEL = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLayout:
    """A layout over ``ranks * tensor * pipeline`` devices.

    Attributes:
        ranks: data-parallel copies, each with its share of the prompts.
        strategy: ``replicate``: every rank holds all weights. With the others it holds shards between steps; they
            differ in what is gathered within a step.
        whole: ranks share out the optimizer state alone (zero1 and zero2 on MindSpore): each holds all weights, and all
            gradients of a step.
        tensor: devices that split every matrix; pipeline: groups that split the layers.
        expert: devices of a pipeline stage that split its routed experts.
        engine: devices that split every matrix of the engine; 0: as many as in training.
    """

    ranks: int = 1
    strategy: Strategy = "replicate"
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    whole: bool = False
    engine: int = 0

    @property
    def devices(self) -> int:
        return self.ranks * self.tensor * self.pipeline

    @property
    def sharded(self) -> bool:
        """True where a rank holds shards and gathers the weights it computes with."""
        return self.strategy != "replicate" and self.ranks > 1 and not self.whole

    @property
    def generating(self) -> DeviceLayout:
        """The layout of the engine, which shares nothing out between tensor groups."""
        size = self.engine or self.tensor
        return replace(self, strategy="replicate", tensor=size, ranks=self.ranks * self.tensor // size, engine=0)

    def held(self, dense: int, experts: int = 0, whole: int = 0) -> int:
        """Count the numbers that one device stores.

        Args:
            dense: numbers that a tensor group splits; ``experts``: those of routed experts.
            whole: numbers that every device of a tensor group holds.
        """
        shards = self.ranks if self.sharded else 1
        parts = self.tensor * shards
        if self.tensor == 1:
            dense, whole = dense + whole, 0
        split = -(-dense // (parts * self.pipeline)) - (-experts // (max(self.expert, parts) * self.pipeline))
        return split - (-whole // (shards * self.pipeline))

    def stepped(self, dense: int, experts: int = 0, whole: int = 0) -> int:
        """Count the weights whose optimizer state one device keeps."""
        return replace(self, whole=False).held(dense, experts, whole)

    def used(self, dense: int, experts: int = 0, whole: int = 0) -> int:
        """Count the weights that one device computes with."""
        return replace(self, strategy="replicate").held(dense, experts, whole)

    def __str__(self) -> str:
        sizes = {
            self.strategy if self.strategy != "replicate" else "data": self.ranks, "tensor": self.tensor,
            "pipeline": self.pipeline, "expert": self.expert, "engine tensor": self.engine,
        }  # fmt: skip
        return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one device"


def runnable(
    devices: int, slices: Sequence[int], strategies: Sequence[Strategy], *, whole: bool
) -> Iterator[DeviceLayout]:
    """Yield the layouts of so many devices that a backend can run, the least split ones first.

    Args:
        slices: sizes of a tensor group that model and backend allow.
        strategies: what the backend can share out between groups.
        whole: as in ``DeviceLayout``.
    """
    for tensor in (size for size in slices if devices % size == 0):
        for strategy in strategies if devices > tensor else ("replicate",):
            yield DeviceLayout(
                ranks=devices // tensor, strategy=strategy, tensor=tensor, whole=whole and strategy != "replicate"
            )


def plans(slices: Sequence[int], layers: int, experts: int) -> Iterator[DeviceLayout]:
    """Yield layouts with tensor, pipeline and expert parallelism: fewest devices first, of these the least split ones.

    Args:
        slices: sizes of a tensor group that the model allows.
        layers: of the decoder; a stage has at least two.
        experts: routed experts of a layer, 0: dense.
    """
    for count in NODES:
        devices = count * NODE
        for pipeline in (depth for depth in DEPTHS if depth <= count and layers >= 2 * depth):
            for tensor in slices:
                ranks = devices // (tensor * pipeline)
                stage = ranks * tensor
                yield DeviceLayout(
                    ranks=ranks, strategy="fsdp", tensor=tensor, pipeline=pipeline,
                    expert=min(stage, experts & -experts, MOST_EXPERT_PARALLEL) if experts else 1,
                )  # fmt: skip
