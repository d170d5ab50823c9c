"""The layout of a model on devices: the share of its weights, gradients and optimizer state that one of them holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..config.parallel import Strategy

NODE = 8  # devices with fast links between them: tensor parallelism stays inside
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
    """

    ranks: int = 1
    strategy: Strategy = "replicate"
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    whole: bool = False

    @property
    def devices(self) -> int:
        return self.ranks * self.tensor * self.pipeline

    @property
    def sharded(self) -> bool:
        """True where a rank holds shards and gathers the weights it computes with."""
        return self.strategy != "replicate" and self.ranks > 1 and not self.whole

    @property
    def runs(self) -> bool:
        """True where this project can run the layout; any other is a plan."""
        return self.tensor == self.pipeline == self.expert == 1

    def held(self, dense: int, experts: int = 0) -> int:
        """Count the numbers that one device stores, of ``dense`` numbers and ``experts`` of routed experts."""
        parts = self.tensor * (self.ranks if self.sharded else 1)
        return -(-dense // (parts * self.pipeline)) - (-experts // (max(self.expert, parts) * self.pipeline))

    def stepped(self, dense: int, experts: int = 0) -> int:
        """Count the weights whose optimizer state one device keeps."""
        return replace(self, whole=False).held(dense, experts)

    def used(self, dense: int, experts: int = 0) -> int:
        """Count the weights that one device computes with."""
        return replace(self, strategy="replicate").held(dense, experts)

    def __str__(self) -> str:
        sizes = {
            self.strategy if self.strategy != "replicate" else "data": self.ranks, "tensor": self.tensor,
            "pipeline": self.pipeline, "expert": self.expert,
        }  # fmt: skip
        return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one device"


def plans(heads: int, layers: int, experts: int, nodes: int = 128) -> Iterator[DeviceLayout]:
    """Yield layouts with tensor, pipeline and expert parallelism: fewest devices first, of these the least split ones.

    Args:
        heads: key-value heads (attention heads where keys are expanded); tensor parallelism divides them.
        layers: of the decoder; a stage has at least two.
        experts: routed experts of a layer, 0: dense.
        nodes: the largest number of nodes, each of ``NODE`` devices.
    """
    for count in (2**power for power in range(nodes.bit_length()) if 2**power <= nodes):
        devices = count * NODE
        for pipeline in (depth for depth in DEPTHS if depth <= count and layers >= 2 * depth):
            for tensor in (size for size in (1, 2, 4, 8) if heads % size == 0):
                ranks = devices // (tensor * pipeline)
                stage = ranks * tensor
                yield DeviceLayout(
                    ranks=ranks, strategy="fsdp", tensor=tensor, pipeline=pipeline,
                    expert=min(stage, experts & -experts, MOST_EXPERT_PARALLEL) if experts else 1,
                )  # fmt: skip
