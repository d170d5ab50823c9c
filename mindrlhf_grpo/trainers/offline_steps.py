"""What training and evaluation on given rows have in common: examples in, a ready batch and its outputs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ..algorithms.batch_constants import BatchContext
from ..algorithms.task import Task
from ..backend import Backend, Comm, Policy, TrainedModel, ValueModel
from ..batches.offline import Denominators, build_offline_batch, with_numbers
from ..batches.reference_logps import StoredLogProbs
from ..config.offline import OfflineConfig
from ..data.examples import Example
from ..types import Batch, FloatArray


def share_of(count: int, comm: Comm) -> range:
    """Places of this rank's examples among ``count``: contiguous, in the order of the ranks."""
    return range(comm.rank * count // comm.world_size, (comm.rank + 1) * count // comm.world_size)


def load_model(config: OfflineConfig, task: Task, backend: Backend) -> TrainedModel:
    """The policy, or a model of values whose number stands at the token itself."""
    if task.objective.model == "policy":
        return backend.load_policy()
    return backend.load_value_model(config.model, config.train, read_at="token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """One model, and what its task needs before a loss can be computed."""

    task: Task
    model: TrainedModel
    comm: Comm

    def outputs(self, batch: Batch) -> FloatArray:
        """What the loss reads of this rank's rows ``[N, T]``, without gradient."""
        if self.task.objective.model == "policy":
            return self.logps(batch)
        return cast(ValueModel, self.model).values(batch)

    def logps(self, batch: Batch) -> FloatArray:
        """Log-probs of the policy ``[N, T]``."""
        return cast(Policy, self.model).logps(batch).logps

    def reference_logps(self, batch: Batch) -> FloatArray:
        """Log-probs of the reference ``[N, T]``."""
        return cast(Policy, self.model).logps(batch, reference=True).logps

    def batch(self, examples: Sequence[Example], stored: StoredLogProbs | None = None) -> Batch:
        """This rank's rows of the global examples, with all that the loss reads; every rank calls it.

        Args:
            stored: log-probs of the reference, where they are not computed now.
        """
        share = share_of(len(examples), self.comm)
        own = examples[share.start : share.stop]
        batch = build_offline_batch(own, Denominators.of(examples))
        if self.task.needs_reference:
            reference = self.reference_logps(batch) if stored is None else stored.of(own, batch.ids.shape)
            batch = replace(batch, ref_logps=reference)
        prepare = self.task.objective.prepare
        if prepare is None:
            return batch
        before = BatchContext(
            examples=examples, share=share, batch=batch, logps=self.logps, ref_logps=self.reference_logps,
            gather=self.comm.gather_objects,
        )  # fmt: skip
        return with_numbers(batch, prepare(before))

    def logps_of_rows(self, examples: Sequence[Example]) -> list[FloatArray]:
        """The policy's log-probs of each example, its completions one after the other; the same on every rank."""
        share = share_of(len(examples), self.comm)
        own = examples[share.start : share.stop]
        batch = build_offline_batch(own, Denominators.of(examples))
        logps, at = self.logps(batch), 0
        found: list[FloatArray] = []
        for example in own:
            rows = range(at, at + len(example.completions))
            found.append(np.concatenate([logps[row, : batch.lengths[row]] for row in rows]))
            at = rows.stop
        return [logps for part in self.comm.gather_objects(found) for logps in part]
