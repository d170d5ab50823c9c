"""Resharding: weights go from the ranks' parts in training to the engine's, by the core's plan, in memory.

Weights travel in buckets, each rank's pieces straight to the ranks that need them, so that no rank holds more than its
own layouts and one bucket. Afterwards every copy is compared by the checksums of its source and of its target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.resharding import Copy, ReshardingPlan, slices

from ..comm import TorchRanks, others_present
from .fingerprint import checksum

BUCKET = 16 * 1024 * 1024  # elements that travel at once


class Resharder:
    """One plan, carried out again at every push.

    Attributes:
        buckets: the plan's copies in groups that travel at once.
        sent, received: elements that this rank has sent to and received from others in the last push.
        staged: most elements that this rank has had on the way at once.
    """

    def __init__(self, plan: ReshardingPlan, comm: TorchRanks, *, bucket: int = BUCKET) -> None:
        self.plan, self.comm = plan, comm
        self.buckets = plan.buckets(bucket)
        self.sent = self.received = self.staged = 0

    @torch.no_grad()
    def move(self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Copy this rank's parts to wherever they are needed, and fill this rank's targets; every rank calls it.

        Raises:
            RunFailed: on every rank, if an element differs from its source afterwards; it is named.
        """
        self.sent = self.received = self.staged = 0
        for bucket in self.buckets:
            self.move_bucket(bucket, sources, targets)
        self.verify(sources, targets)

    def move_bucket(self, bucket: Sequence[Copy], sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Make the copies of one bucket."""
        rank = self.comm.rank
        pieces, places = [], []
        sends: dict[int, list[Tensor]] = {}
        receives: dict[int, list[tuple[Copy, Tensor]]] = {}
        for copy in bucket:
            if copy.source == rank:
                piece = sources[copy.source_parameter][slices(copy.source_box)]
                if copy.target == rank:
                    targets[copy.target_parameter][slices(copy.target_box)].copy_(piece)
                else:
                    sends.setdefault(copy.target, []).append(piece)
            elif copy.target == rank:
                receives.setdefault(copy.source, []).append((copy, targets[copy.target_parameter]))
        for other, parts in sends.items():
            pieces.append((other, torch.cat([part.reshape(-1) for part in parts]).to(self.device(targets))))
        for other, expected in receives.items():
            like = expected[0][1]
            places.append((other, like.new_empty(sum(copy.elements for copy, _ in expected))))
        operations = [dist.P2POp(dist.irecv, buffer, other) for other, buffer in places]
        operations += [dist.P2POp(dist.isend, buffer, other) for other, buffer in pieces]
        if operations:
            with others_present():
                for work in dist.batch_isend_irecv(operations):
                    work.wait()
        for other, buffer in places:
            expected = receives[other]
            for (copy, target), piece in zip(
                expected, buffer.split([copy.elements for copy, _ in expected]), strict=True
            ):
                place = target[slices(copy.target_box)]
                place.copy_(piece.view(place.shape))
        sent, received = (sum(buffer.numel() for _, buffer in buffers) for buffers in (pieces, places))
        self.sent, self.received = self.sent + sent, self.received + received
        self.staged = max(self.staged, sent + received)

    @staticmethod
    def device(targets: Mapping[str, Tensor]) -> torch.device:
        """The device of the engine."""
        return next(iter(targets.values())).device

    def verify(self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Compare the checksums of every copy's source and target.

        Raises:
            RunFailed: on every rank, naming the first element that differs.
        """
        rank = self.comm.rank
        taken = [
            checksum(sources[copy.source_parameter][slices(copy.source_box)])
            for copy in self.plan.copies
            if copy.source == rank
        ]
        arrived = [
            checksum(targets[copy.target_parameter][slices(copy.target_box)])
            for copy in self.plan.copies
            if copy.target == rank
        ]
        both = self.comm.gather_objects((as_lists(taken), as_lists(arrived)))
        places = [[0, 0] for _ in both]
        for copy in self.plan.copies:
            pair = []
            for side, holder in enumerate((copy.source, copy.target)):
                pair.append(both[holder][side][places[holder][side]])
                places[holder][side] += 1
            if pair[0] != pair[1]:
                raise RunFailed(self.describe(copy, sources, targets))

    def describe(self, copy: Copy, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> str:
        """The first element of a copy that differs, in words; every rank calls it."""
        rank, found = self.comm.rank, None
        source = sources[copy.source_parameter][slices(copy.source_box)].cpu() if copy.source == rank else None
        source = next(filter(lambda one: one is not None, self.comm.gather_objects(source)))
        if copy.target == rank:
            target = targets[copy.target_parameter][slices(copy.target_box)].cpu()
            differ = (source != target) & ~(source.isnan() & target.isnan())
            if bool(differ.any()):
                place = differ.nonzero()[0].tolist()
                at = [start + offset for (start, _), offset in zip(copy.target_box, place, strict=True)]
                values = (float(target[tuple(place)]), float(source[tuple(place)]))
                found = f"element {at} of rank {rank}'s part is {values[0]!r} and must be {values[1]!r}"
        found = next(filter(None, self.comm.gather_objects(found)), "its bits differ")
        return (
            f"weight {copy.target_parameter} differs between engine and policy after the sync: {found} "
            f"(from rank {copy.source})"
        )


def as_lists(sums: Sequence[Tensor]) -> list[list[int]]:
    """Checksums as plain numbers, moved to the host at once."""
    return [] if not sums else torch.stack(list(sums)).tolist()
