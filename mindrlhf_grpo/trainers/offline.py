"""Training on rows that are there: supervised, preferences, reward models. One loop for all, top to bottom.

Every rank runs it. One step: rows -> batch (reference log-probs, numbers over the whole batch) -> update.
It knows no objective and no framework: the task and the backend do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checkpoint, reference_store, yaml_source
from ..backend import Backend, UpdateResult, load_backend
from ..config_offline import OfflineConfig
from ..data.examples import Example, ExampleStream
from ..errors import RunFailed
from ..model_files import TOKENIZER_FILES, copy_files, find_folder
from ..objectives import resolve_objective
from ..reference_store import StoredLogProbs
from ..report import render
from ..tracking import Tracker, silent
from .clock import Clock
from .offline_evaluation import HeldOutRows, held_out_rows, tokenizer_of, with_intervals
from .offline_samples import write_samples
from .offline_steps import Steps, load_model
from .run_folder import Progress, RunFolder, state
from .schedule import learning_rate


def train(config: OfflineConfig) -> dict[str, Any]:
    """Run (or resume) a configuration to its end; returns the summary.

    Raises:
        RunFailed: a gradient that is not finite; the batch is saved.
    """
    backend = load_backend(config)
    try:
        return OfflineTrainer(config, backend).run()
    finally:
        backend.comm.close()


class OfflineTrainer:
    """The parts of one run and the loop over them."""

    def __init__(self, config: OfflineConfig, backend: Backend) -> None:
        self.started = time.perf_counter()
        self.config, self.backend, self.comm = config, backend, backend.comm
        self.main = backend.comm.rank == 0
        self.folder = RunFolder(config.run_dir)
        self.task = resolve_objective(config)
        self.tokenizer = tokenizer_of(config)
        self.stream = self._stream()
        held_out = held_out_rows(config, self.task, self.tokenizer)
        if self.main:
            self.folder.open(config, backend.versions())
        self.comm.barrier()

        self.steps = Steps(task=self.task, model=load_model(config, self.task, backend), comm=self.comm)
        self.stored = self._stored("train", self._stream().all) if self.stores else None
        kept = self._stored("held_out", lambda: held_out) if self.stores and held_out else None
        self.held_out = HeldOutRows(examples=held_out, step=config.train.prompts_per_step, stored=kept)
        self.progress = self._resume()
        self.resumed_seconds = self.progress.seconds
        self.tracker = self._tracker()
        self.backend.compile_log.announce = self.tracker.note
        self.warnings = self._warnings()

    def run(self) -> dict[str, Any]:
        """Train to the last step or to the target, then write summary and report."""
        for text in self.warnings:
            self.tracker.note(text)
        self._first_evaluation()
        self.clock = Clock(self.backend.compile_log)
        try:
            while self.progress.stopped_because is None and self.progress.step < self.config.train.steps:
                self.step(self.progress.step + 1)
        finally:
            self.tracker.close()
        return self._finish()

    def step(self, step: int) -> None:
        """One batch of rows, learned from."""
        clock = self.clock
        examples = self.stream.take(self.config.train.prompts_per_step)
        with clock.phase("logps"):
            batch = self.steps.batch(examples, self.stored)
        rate = learning_rate(self.config.train, step)
        with clock.phase("update"):
            try:
                result = self.steps.model.update(batch, self.task.loss, learning_rate=rate)
            except RunFailed as error:
                evidence = self.folder.save_evidence(step, batch, str(error)) if self.main else ""
                raise RunFailed(f"step {step}: {error}. The batch is in {evidence}") from None
        self.progress.step, self.progress.stream = step, self.stream.state()
        metrics = self._update_metrics(rate, examples, result)
        with clock.phase("eval"):
            metrics.update(self._evaluate(step))
        # Logged before the checkpoint: a run killed in between makes this step, and its line, again.
        self.tracker.log(step, {**metrics, **clock.metrics(), **self._memory()})
        self._save(step)

    def _update_metrics(self, rate: float, examples: Sequence[Example], result: UpdateResult) -> dict[str, float]:
        """Figures of the optimizer step, over all ranks."""
        tokens = result.sums.get("tokens", 0.0)
        computed = sum(len(e.prompt) + sum(len(completion) for completion in e.completions) for e in examples)
        return {
            "lr": rate, "loss": result.loss, "grad_norm": result.grad_norm, **self.task.figures(result.sums),
            "tokens/trained": tokens, "tokens/read": float(computed), "rows": float(len(examples)),
        }  # fmt: skip

    def _first_evaluation(self) -> None:
        """Held-out figures of the untrained model, once in the life of a run."""
        progress = self.progress
        if not self.held_out.examples or progress.step or progress.before:
            return
        progress.before = progress.after = self._held_out_figures(0)
        name = f"eval/{self.task.headline}"
        self.tracker.note(
            f"held-out {self.task.headline} before training: {progress.before[name]:.4f} "
            f"({len(self.held_out.examples)} rows)"
        )

    def _evaluate(self, step: int) -> dict[str, float]:
        """Held-out figures when they are due; sets the best step and the reason to stop."""
        every, last = self.config.eval.every, step == self.config.train.steps
        if not self.held_out.examples or not (last or (every and step % every == 0)):
            return {}
        metrics, progress = self._held_out_figures(step), self.progress
        value, sign = metrics[f"eval/{self.task.headline}"], self.task.better
        progress.after = metrics
        if progress.best is None or sign * value > sign * progress.best:
            progress.best, progress.best_step = value, step
        target = self.config.eval.stop_at
        if target is not None and sign * value >= sign * target:
            progress.stopped_because = f"held-out {self.task.headline} {value:.4f} reached the target {target}"
        return metrics

    def _held_out_figures(self, step: int) -> dict[str, float]:
        """Figures of the held-out rows; some of the rows, token by token, go to the report."""
        rows = self.held_out
        write_samples(self.folder.path, step, self.steps, rows.examples, self.tokenizer, rows.stored)
        return rows.evaluate(self.steps)

    def _save(self, step: int) -> None:
        """Checkpoint when due: by interval, at the end, or because it is the best so far."""
        settings, progress = self.config.checkpoint, self.progress
        due = settings.every and step % settings.every == 0
        last = step == self.config.train.steps or progress.stopped_because is not None
        best = settings.keep_best and progress.best_step == step
        self.clock = Clock(self.backend.compile_log)  # of the next step, which carries the time of this checkpoint
        if not (due or last or best):
            return
        with self.clock.phase("save"):
            self._write_checkpoint(step)

    def _write_checkpoint(self, step: int) -> None:
        """Rank 0 writes and prunes; the others wait."""
        settings, progress = self.config.checkpoint, self.progress
        progress.seconds = self._seconds()
        if self.main:

            def write(model: Path, optimizer: Path) -> None:
                self.steps.model.save_model(model)
                copy_files(find_folder(self.config.model.path), model, TOKENIZER_FILES)
                self.steps.model.save_state(optimizer)

            checkpoint.save(self.folder.checkpoints, step, state(progress), write)
            protected = [progress.best_step] if settings.keep_best and progress.best_step is not None else []
            checkpoint.prune(self.folder.checkpoints, keep_last=settings.keep_last, protected=protected)
        self.comm.barrier()

    def _stream(self) -> ExampleStream:
        return ExampleStream(self.config.data, self.task.encoder, self.tokenizer, seed=self.config.seed)

    @property
    def stores(self) -> bool:
        return self.config.objective.reference_logps == "stored"

    def _stored(self, name: str, examples: Any) -> StoredLogProbs:
        """Reference log-probs from the run folder, or computed now by the untrained model and kept there."""
        folder = self.folder.path / "reference"
        identity = {"fingerprint": self.steps.model.fingerprint()}
        found = reference_store.load(folder, name, identity)
        if found is None:
            found = reference_store.compute(examples(), self.config.train.prompts_per_step, self.steps.logps_of_rows)
            if self.main:
                reference_store.save(folder, name, identity, found)
        self.comm.barrier()
        return found

    def _resume(self) -> Progress:
        """Restore model, optimizer and data position from the newest checkpoint, or start fresh."""
        found = self.folder.latest()
        if found is None:
            return Progress()
        progress, folder = found
        self.steps.model.load_state(folder / "policy", folder / "optimizer")
        self.stream.load_state(progress.stream)
        return progress

    def _tracker(self) -> Tracker:
        """The tracker of rank 0; the other ranks' is silent."""
        if not self.main:
            return silent()
        config = self.config
        return Tracker(
            self.folder.path, list(config.tracking.to), config_text=yaml_source.dump(config.model_dump(mode="json")),
            steps=config.train.steps, resume_step=self.progress.step,
        )  # fmt: skip

    def _warnings(self) -> list[str]:
        """What a reader of the curves must know, said at the start and in the report."""
        model = self.steps.model
        notes = [f"training layout: {model.layout} ({model.layout_reason})"]
        if self.progress.step:
            notes.append(f"resumed after step {self.progress.step}")
        return notes

    def _memory(self) -> dict[str, float]:
        return {f"memory/{name}": value for name, value in self.backend.memory().items()}

    def _seconds(self) -> float:
        """Wall seconds of the run, those before a resume included."""
        return self.resumed_seconds + time.perf_counter() - self.started

    def _finish(self) -> dict[str, Any]:
        """Summary and report; the numbers of the last evaluation are the run's."""
        progress = self.progress
        summary: dict[str, Any] = {
            "objective": self.task.objective.name,
            "before": with_intervals(progress.before),
            "after": with_intervals(progress.after),
            "seconds": round(self._seconds(), 1),
            "report": str(self.folder.path / "report.html"),
        }
        if self.main:
            details = {
                "steps": progress.step, "best_step": progress.best_step, "best": progress.best,
                "stopped_because": progress.stopped_because or "all steps done", "warnings": self.warnings,
                "data": self.stream.counts,
            }  # fmt: skip
            self.folder.write_summary({**summary, **details})
            render(self.folder.path)
        self.comm.barrier()
        return summary
