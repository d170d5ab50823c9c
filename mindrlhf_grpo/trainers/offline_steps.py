"""The part of a step that offline training and its evaluation share: examples in, a complete batch and model outputs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..algorithms.batch_constants import BatchContext
from ..algorithms.task import Task
from ..backend import Backend, Policy, RowRanks, TrainedModel
from ..batches.offline import Denominators, build_offline_batch, with_numbers
from ..batches.reference_logps import StoredLogProbs
from ..config.offline import OfflineConfig
from ..data.examples import Example
from ..data.stream import shard
from ..types import Batch, FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The trained model, and everything its task needs before a loss can be computed.

    Attributes:
        outputs: what the loss reads of this rank's rows ``[N, T]``, without gradient: log-probs of a policy, values of
            a value model.
        policy: the model, where it is a policy; None for a value model.
    """

    task: Task
    rows: RowRanks
    main: bool
    model: TrainedModel
    outputs: Callable[[Batch], FloatArray]
    policy: Policy | None

    def logps(self, batch: Batch) -> FloatArray:
        """Log-probs of the policy ``[N, T]``."""
        return self._policy().logps(batch).logps

    def reference_logps(self, batch: Batch) -> FloatArray:
        """Log-probs of the reference policy ``[N, T]``."""
        return self._policy().logps(batch, reference=True).logps

    def _policy(self) -> Policy:
        assert self.policy is not None, f"{self.task.objective.name} trains a value model, which has no log-probs"
        return self.policy

    def batch(self, examples: Sequence[Example], stored: StoredLogProbs | None = None) -> Batch:
        """This rank's rows of the global examples, with everything that the loss reads; every rank calls it.

        Args:
            stored: log-probs of the reference policy; None: they are computed now, if the task needs them.
        """
        share = self._share(len(examples))
        local_examples = examples[share.start : share.stop]
        batch = build_offline_batch(local_examples, Denominators.of(examples))
        if self.task.needs_reference:
            computed = self.reference_logps(batch) if stored is None else stored.of(local_examples, batch.ids.shape)
            batch = replace(batch, ref_logps=computed)
        prepare = self.task.objective.prepare
        if prepare is None:
            return batch
        context = BatchContext(
            examples=examples,
            share=share,
            batch=batch,
            logps=self.logps,
            ref_logps=self.reference_logps,
            gather=self.rows.gather_objects,
        )
        return with_numbers(batch, prepare(context))

    def logps_of_rows(self, examples: Sequence[Example]) -> list[FloatArray]:
        """The policy's log-probs of each example, its completions one after the other; the same on every rank."""
        share = self._share(len(examples))
        local_examples = examples[share.start : share.stop]
        batch = build_offline_batch(local_examples, Denominators.of(examples))
        logps, first = self.logps(batch), 0
        by_example: list[FloatArray] = []
        for example in local_examples:
            rows = range(first, first + len(example.completions))
            by_example.append(np.concatenate([logps[row, : batch.lengths[row]] for row in rows]))
            first = rows.stop
        return [logps for rank in self.rows.gather_objects(by_example) for logps in rank]

    def _share(self, count: int) -> range:
        """Places of this rank's examples among ``count``: contiguous, in the order of the ranks."""
        places = shard(range(count), self.rows.rank, self.rows.world_size)
        assert isinstance(places, range)
        return places


def load_steps(config: OfflineConfig, task: Task, backend: Backend) -> Steps:
    """Load the model that the task trains: a policy, or a value model that is read at the token itself."""
    rows, main = backend.comm.rows, backend.comm.rank == 0
    if task.objective.model == "policy":
        policy = backend.load_policy()
        return Steps(
            task=task,
            rows=rows,
            main=main,
            model=policy,
            policy=policy,
            outputs=lambda batch: policy.logps(batch).logps,
        )
    values = backend.load_value_model(config.model, config.train, read_at="token")
    return Steps(task=task, rows=rows, main=main, model=values, policy=None, outputs=values.values)
