"""Offline training on a fixed dataset: supervised, preferences, reward models. One loop for all, top to bottom.

Every rank runs it. One step: rows -> batch (reference log-probs, constants of the whole batch) -> update. The loop
knows no objective and no framework: the task and the backend do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..algorithms.task import resolve_objective
from ..backend import Backend, UpdateResult, load_backend
from ..batches import reference_logps
from ..batches.reference_logps import StoredLogProbs
from ..config.offline import OfflineConfig
from ..data.examples import Example, ExampleStream
from ..errors import RunFailed
from ..run.clock import Clock
from ..run.folder import Progress
from .epochs import in_steps
from .offline_evaluation import HeldOutRows, load_held_out_rows, with_intervals
from .offline_samples import write_samples
from .offline_steps import load_steps
from .rows import context_length, notes_on, open_examples
from .schedule import learning_rate
from .session import Judged, RunSession, leaving, load_run_tokenizer
from .step_metrics import changed_metrics


def train(config: OfflineConfig) -> dict[str, Any]:
    """Run (or resume) a configuration to its end; returns the summary.

    Raises:
        RunFailed: a gradient that is not finite; the batch is saved.
    """
    backend = load_backend(config)
    with leaving(backend.comm):
        return OfflineTrainer(config, backend).run()


class OfflineTrainer:
    """The parts of one run and the loop over them."""

    def __init__(self, config: OfflineConfig, backend: Backend) -> None:
        self.config, self.comm, self.task = config, backend.comm, resolve_objective(config)
        self.tokenizer = load_run_tokenizer(config)
        self.stream = self._stream()
        self.stream.check()
        self.config = config = in_steps(config, len(self.stream))
        self.session = RunSession(config, backend)
        held_out = load_held_out_rows(config, self.task, self.tokenizer)
        self.session.open()

        self.session.note(f"loading {config.model.path}")
        self.steps = load_steps(config, self.task, backend)
        self.stored = self._store("train", self._stream().all) if self.stores else None
        stored_held_out = self._store("held_out", lambda: held_out) if self.stores and held_out else None
        self.held_out = HeldOutRows(examples=held_out, step=config.train.prompts_per_step, stored=stored_held_out)
        self.session.resume(self._restore)

    def run(self) -> dict[str, Any]:
        """Train to the last step or to the target, then write summary and report."""
        model = self.steps.model
        layout = f"training layout: {model.layout} ({model.layout_reason})"
        context = context_length(self.config.model.path)
        repeats = notes_on(self.stream, self.config.train.prompts_per_step, context=context)
        self.session.announce([layout, *repeats, *self._warnings()])
        try:
            self._evaluate_untrained()
            for step, clock in self.session.steps():
                self.step(step, clock)
        finally:
            self.session.close()
        return self._finish()

    def _warnings(self) -> list[str]:
        """What will not be known of a model that judges: whether it is right about rows that it has not seen."""
        objective = self.task.objective
        if self.held_out.examples or (objective.model == "policy" and objective.rows != "labelled"):
            return []
        return [
            f"no eval.source: {objective.name} fits its rows with ease, and nothing measures its accuracy on others"
        ]

    def step(self, step: int, clock: Clock) -> None:
        """Learn from one batch of rows; then evaluation, metrics, checkpoint."""
        examples = self.stream.take(self.config.train.prompts_per_step)
        with clock.phase("logps"):
            batch = self.steps.batch(examples, self.stored)
        rate = learning_rate(self.config.train, step)
        with clock.phase("update"):
            try:
                result = self.steps.model.update(batch, self.task.loss, learning_rate=rate)
            except RunFailed as error:
                raise self.session.failure(step, batch, error) from None
        self.session.done(step, stream=self.stream.state())
        with clock.phase("eval"):
            evaluated = self._evaluate(step)
        self.session.log(step, {**self._update_metrics(rate, examples, result), **evaluated}, clock)
        self.session.keep(step, self.write, self.steps.model.gather, clock)

    def _update_metrics(self, rate: float, examples: Sequence[Example], result: UpdateResult) -> dict[str, float]:
        """Metrics of the optimizer step, over all ranks."""
        tokens = result.sums.get("tokens", 0.0)
        read = sum(len(e.prompt) + sum(len(completion) for completion in e.completions) for e in examples)
        return {
            "epoch": self.stream.epoch,
            "lr": rate,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            **changed_metrics([result]),
            **self.task.figures(result.sums),
            "tokens/trained": tokens,
            "tokens/read": float(read),
            "rows": float(len(examples)),
            **{f"source/{name}/rows": float(n) for name, n in Counter(e.source for e in examples).items() if name},
        }

    def _evaluate_untrained(self) -> None:
        """Evaluate the untrained model, once in the life of a run."""
        progress, count = self.session.progress, len(self.held_out.examples)
        if count and not progress.step and not progress.before:
            self.session.note(f"evaluating {count} held-out rows before training")
            self._held_out_metrics(0)

    def _evaluate(self, step: int) -> dict[str, float]:
        """Held-out metrics when they are due."""
        due = self.held_out.examples and self.session.evaluation_due(step)
        return self._held_out_metrics(step) if due else {}

    def _held_out_metrics(self, step: int) -> dict[str, float]:
        """Evaluate the held-out rows; some of them, token by token, go to the report."""
        rows, task = self.held_out, self.task
        write_samples(self.config.run_dir, step, self.steps, rows.examples, self.tokenizer, rows.stored)
        metrics = rows.evaluate(self.steps)
        counted = f"{len(rows.examples)} row{'s' * (len(rows.examples) != 1)}"
        judged = Judged(metric=f"eval/{task.headline}", name=task.headline, counted=counted, sign=task.better)
        self.session.evaluated(step, metrics, judged)
        return metrics

    def write(self, folder: Path) -> None:
        """Fill the folder of a checkpoint."""
        self.steps.model.save_model(folder / "policy")
        self.steps.model.save_state(folder / "optimizer")

    def _restore(self, folder: Path, progress: Progress) -> None:
        """Load model, optimizer and data position from a checkpoint."""
        self.steps.model.load_state(folder / "policy", folder / "optimizer")
        self.stream.load_state(progress.stream)

    def _stream(self) -> ExampleStream:
        return open_examples(self.config, self.task, self.tokenizer)

    @property
    def stores(self) -> bool:
        return self.config.objective.reference_logps == "stored"

    def _store(self, name: str, examples: Callable[[], Sequence[Example]]) -> StoredLogProbs:
        """Reference log-probs from the run folder, or computed now by the untrained model and stored there."""
        folder = self.session.folder.path / "reference"
        identity = {"fingerprint": self.steps.model.fingerprint()}
        stored = reference_logps.load(folder, name, identity)
        if stored is None:
            stored = reference_logps.compute(examples(), self.config.train.prompts_per_step, self.steps.logps_of_rows)
            if self.session.main:
                reference_logps.save(folder, name, identity, stored)
        self.comm.barrier()
        return stored

    def _finish(self) -> dict[str, Any]:
        """Write summary and report, with the last evaluation as the run's result; returns the summary."""
        progress = self.session.progress
        headline = {
            "objective": self.task.objective.name,
            "before": with_intervals(progress.before),
            "after": with_intervals(progress.after),
        }
        return self.session.finish(headline, {"best": progress.best, "data": self.stream.counts})
