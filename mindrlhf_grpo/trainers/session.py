"""A run session: folder, progress, clock, tracker and alarms of one training run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..backend import Backend
from ..config.file import AnyConfig, dump
from ..metrics.alarms import Alarms
from ..model_files.folder import TOKENIZER_FILES, copy_files, find_folder
from ..report import render
from ..run import checkpoint
from ..run.clock import Clock
from ..run.folder import Progress, RunFolder, state
from ..run.tracking import Tracker, silent
from ..tokenizers.tokenizer import Tokenizer, load_tokenizer


class RunSession:
    """Folder, progress, clock and tracker of one run; rank 0 writes, the others wait.

    Raises:
        CheckpointError: the run's folder holds a run with other settings, or a damaged checkpoint.
    """

    def __init__(self, config: AnyConfig, backend: Backend) -> None:
        self.started = time.perf_counter()
        self.config, self.backend, self.comm = config, backend, backend.comm
        self.main = backend.comm.rank == 0
        self.folder = RunFolder(config.run_dir)
        self.progress = Progress()
        self.tracker = silent()
        self.warnings: list[str] = []
        self.enter: Callable[[str], None] | None = None  # what moves memory when a phase begins
        self.alarms: Alarms | None = None  # made with the first line of metrics
        self.clock = Clock(backend.compile_log)
        self.resumed_seconds = 0.0

    def open(self) -> None:
        """Make the folder, or check that this configuration may go on with it."""
        if self.main:
            self.folder.open(self.config, self.backend.versions())
        self.comm.barrier()

    def resume(self, restore: Callable[[Path], None]) -> None:
        """Take up the newest checkpoint if there is one; ``restore`` reads the rest of its folder."""
        found = self.folder.latest()
        if found is not None:
            self.progress, folder = found
            restore(folder)
        self.resumed_seconds = self.progress.seconds
        if self.main:
            self.tracker = Tracker(
                self.folder.path, list(self.config.tracking.to),
                config_text=dump(self.config), steps=self.config.train.steps, resume_step=self.progress.step,
            )  # fmt: skip
        self.backend.compile_log.announce = self.tracker.note

    def announce(self, warnings: Sequence[str]) -> None:
        """Say what a reader of the curves must know, here and in the report."""
        resumed = [f"resumed after step {self.progress.step}"] if self.progress.step else []
        self.warnings = [*warnings, *resumed]
        for text in self.warnings:
            self.tracker.note(text)

    def steps(self, step: Callable[[int], None]) -> None:
        """Make step after step, to the last or until there is a reason to stop."""
        self.clock = Clock(self.backend.compile_log, self.enter)
        while self.progress.stopped_because is None and self.progress.step < self.config.train.steps:
            step(self.progress.step + 1)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """A line of metrics with times and memory.

        Call it before :meth:`keep`: a run killed in between makes this step, and its line, again.
        """
        memory = {f"memory/{name}": value for name, value in self.backend.memory().items()}
        sounding, notes = self._alarmed(step, metrics) if self.main else ({}, [])
        self.tracker.log(step, {**metrics, **sounding, **self.clock.metrics(), **memory})
        for text in notes:
            self.warnings.append(text)
            self.tracker.note(text)

    def _alarmed(self, step: int, metrics: dict[str, float]) -> tuple[dict[str, float], list[str]]:
        """Which alarms sound with this step's metrics, and a line for each that starts."""
        if self.alarms is None:
            self.alarms = Alarms.of_run(self.config, self.progress.before)
        return self.alarms.observe(step, metrics)

    def keep(self, step: int, write: Callable[[Path], None], gather: Callable[[], None]) -> None:
        """Checkpoint when due: by interval, at the end, or because it is the best so far.

        Args:
            gather: called on every rank, before ``write`` fills the folder on rank 0.
        """
        settings, progress = self.config.checkpoint, self.progress
        due = settings.every and step % settings.every == 0
        last = step == self.config.train.steps or progress.stopped_because is not None
        best = settings.keep_best and progress.best_step == step
        self.clock = Clock(
            self.backend.compile_log, self.enter
        )  # of the next step, which carries the time of this checkpoint
        if due or last or best:
            with self.clock.phase("save"):
                gather()
                self.write_checkpoint(step, write)

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """``write`` fills ``policy/`` and ``optimizer/`` of the folder it is given; old checkpoints go."""
        settings, progress = self.config.checkpoint, self.progress
        progress.seconds = self.seconds()
        if self.main:

            def whole(folder: Path) -> None:
                write(folder)
                copy_files(find_folder(self.config.model.path), folder / "policy", TOKENIZER_FILES)

            checkpoint.save(self.folder.checkpoints, step, state(progress), whole)
            protected = [progress.best_step] if settings.keep_best and progress.best_step is not None else []
            checkpoint.prune(self.folder.checkpoints, keep_last=settings.keep_last, protected=protected)
        self.comm.barrier()

    def seconds(self) -> float:
        """Wall seconds of the run, those before a resume included."""
        return self.resumed_seconds + time.perf_counter() - self.started

    def finish(self, figures: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
        """Summary and report; returns the summary's part for the last line of the output."""
        progress = self.progress
        report = str(self.folder.path / "report.html")
        summary = {**figures, "seconds": round(self.seconds(), 1), "report": report}
        if self.main:
            stopped = progress.stopped_because or "all steps done"
            common = {"steps": progress.step, "best_step": progress.best_step, "stopped_because": stopped}
            self.folder.write_summary({**summary, **common, "warnings": self.warnings, **details})
            render(self.folder.path)
        self.comm.barrier()
        return summary


def tokenizer_of(config: AnyConfig) -> Tokenizer:
    """The model's tokenizer with the chat template the data section asks for."""
    return load_tokenizer(
        config.model.path,
        chat_template=config.data.chat_template,
        trust_remote_code=config.model.trust_remote_code,
    )
