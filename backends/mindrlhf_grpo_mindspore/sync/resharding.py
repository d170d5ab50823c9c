"""Weights go from the layout of training to the engine's own, in memory, one parameter at a time.

The core plans the copies (``mindrlhf_grpo/parallel/resharding.py``); here every box that another rank needs is
broadcast by a rank that holds it. Broadcast is what mccl and hccl both have: ranks that do not need a box drop it.
Beside both sets of weights, a rank holds one parameter in host memory and one box on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.model_files.fingerprint import check_synced, fingerprint
from mindrlhf_grpo.parallel.mesh import Mesh
from mindrlhf_grpo.parallel.parameter_names import HeadSizes, describe_parameters
from mindrlhf_grpo.parallel.resharding import Box, Copy, plan_resharding, slices, volume

from ..comm import MindSporeRanks
from ..generation.engine import MindSporeEngine
from ..graph import overwrite
from ..models.weight_slices import numbers
from ..training.trained_model import TrainedModel

Array = NDArray[Any]
Held = tuple[int, str, Box]  # rank, parameter and box of the source


class Resharding:
    """The copies between two layouts of the same weights.

    Args:
        shapes: whole shapes by name.

    Attributes:
        broadcast_elements: weights that ranks broadcast in one push; those that stay on their rank are not among them.
        peak_elements: by rank, the most weights on its device during a push: both layouts, and the largest box.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], heads: HeadSizes, source: Mesh, target: Mesh, comm: MindSporeRanks
    ) -> None:
        self.comm = comm
        parameters = describe_parameters(shapes, heads)
        plan = plan_resharding(source.layout, parameters, target.layout, parameters)
        self.copies: dict[str, list[Copy]] = {}
        for copy in plan.copies:
            self.copies.setdefault(copy.target_parameter, []).append(copy)
        travelling = {held_box(copy) for copy in plan.copies if copy.source != copy.target}
        sizes = [volume(box) for _, _, box in travelling]
        self.travelling = travelling
        self.broadcast_elements = sum(sizes)
        self.peak_elements = [elements + max(sizes, default=0) for elements in plan.peak_elements(0)]

    def push(self, weights: Mapping[str, Parameter], targets: Mapping[str, Parameter]) -> None:
        """Fill the targets on every rank, which all call it; then compare the fingerprint of every box on both sides.

        Raises:
            RunFailed: a box differs; the first weight with one is named.
        """
        sent: dict[tuple[str, int], str] = {}
        received: dict[tuple[str, int], str] = {}
        for name, copies in self.copies.items():
            own = [copy for copy in copies if copy.target == self.comm.rank]
            values = np.empty(targets[name].shape, np.float32) if own else None
            for box, members in self.boxes(copies):
                piece = self.moved(box, weights)
                for copy in members:
                    if copy.target == self.comm.rank and values is not None:
                        values[slices(copy.target_box)] = piece
            if values is not None:
                overwrite(targets[name], Tensor(values))
            for number, copy in enumerate(copies):
                if copy.source == self.comm.rank:
                    sent[name, number] = box_digest(weights[copy.source_parameter], copy.source_box)
                if copy.target == self.comm.rank:
                    received[name, number] = box_digest(targets[name], copy.target_box)
        self.compare(sent, received)

    def boxes(self, copies: list[Copy]) -> Iterator[tuple[Held, list[Copy]]]:
        """The boxes of the source that fill one parameter, each with the copies of it."""
        by_box: dict[Held, list[Copy]] = {}
        for copy in copies:
            by_box.setdefault(held_box(copy), []).append(copy)
        yield from by_box.items()

    def moved(self, held: Held, weights: Mapping[str, Parameter]) -> Array | None:
        """The values of a box, on every rank that may need it; None on ranks that do not hold a box that stays."""
        rank, name, box = held
        shape = tuple(stop - start for start, stop in box)
        own = read_box(weights[name], box) if rank == self.comm.rank else None
        if held not in self.travelling:
            return own
        return self.comm.broadcast(np.zeros(shape, np.float32) if own is None else own, rank)

    def compare(self, sent: dict[tuple[str, int], str], received: dict[tuple[str, int], str]) -> None:
        """Check on every rank that each box arrived as it was sent."""
        ranks = self.comm.gather_objects((sent, received))
        held = {key: digest for their_sent, _ in ranks for key, digest in their_sent.items()}
        arrived = [(key, digest) for _, their_received in ranks for key, digest in their_received.items()]
        if len(arrived) != sum(map(len, self.copies.values())):
            raise RunFailed(
                f"{len(arrived)} boxes of weights arrived in the engine, not {sum(map(len, self.copies.values()))}"
            )
        for (name, number), digest in sorted(arrived):
            check_synced(name, engine=digest, policy=held[name, number])


class ReshardingSync:
    """Implements ``backend.WeightSync`` for an engine whose weights lie in a layout of its own."""

    def __init__(self, policy: TrainedModel, engine: MindSporeEngine, comm: MindSporeRanks) -> None:
        self.policy, self.engine = policy, engine
        shapes = {name: policy.slices.whole_shape(name, tuple(weight.shape)) for name, weight in policy.weights.items()}
        self.resharding = Resharding(shapes, policy.slices.heads, comm.mesh, comm.engine.mesh, comm)

    def push(self, version: int) -> None:
        """Bring the policy's weights into the engine's layout, and record them as ``version``.

        Raises:
            RunFailed: a weight of the engine differs from the policy's after the push; the first one is named.
        """
        self.resharding.push(self.policy.weights, self.engine.model.weights)
        self.engine.weight_version = version


def held_box(copy: Copy) -> Held:
    return copy.source, copy.source_parameter, copy.source_box


def read_box(weight: Parameter, box: Box) -> Array:
    """The values of a box in float32, which holds every 16-bit number exactly."""
    return np.ascontiguousarray(numbers(weight)[slices(box)])


def box_digest(weight: Parameter, box: Box) -> str:
    """The fingerprint of a box."""
    values = read_box(weight, box)
    return fingerprint([("", values.reshape(1, -1) if values.ndim < 2 else values)])
