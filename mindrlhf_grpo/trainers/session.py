"""The run session: folder, progress, clock, tracker and alarms of one training run, whatever it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import Backend
from ..config.file import AnyConfig, dump
from ..data.stream import SPECIAL_TEXT
from ..errors import RunFailed
from ..metrics.advice import advice
from ..metrics.alarms import Alarms, Sounding
from ..model_files.folder import TOKENIZER_FILES, copy_files, find_folder
from ..report import render
from ..run import checkpoint
from ..run.clock import Clock
from ..run.folder import Progress, RunFolder, state
from ..run.tracking import Tracker, before_the_run, silent
from ..tokenizers.tokenizer import Tokenizer, load_tokenizer
from ..types import Batch

SPECIAL_TEXT_NOTE = (
    "messages write special tokens, which are read as text (data.rendering.special_tokens: tokens reads them as "
    "tokens); summary.json counts these rows"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The held-out figure that a run is judged by: ``eval.stop_at`` and ``checkpoint.keep_best`` compare it.

    Attributes:
        metric: its name among the metrics.
        name: its name for people: ``accuracy``, ``reward``, ``nll``.
        counted: what it is a mean over: ``300 problems``.
        sign: 1 where more is better, else -1.
    """

    metric: str
    name: str
    counted: str
    sign: int = 1


class RunSession:
    """Folder, progress and tracker of one run; rank 0 writes, the others wait.

    Attributes:
        main: whether this is rank 0.
        progress: the state of the run that a checkpoint keeps; replaced once, by :meth:`resume`.

    Raises:
        CheckpointError: the run's folder holds a run with other settings, or a damaged checkpoint.
    """

    def __init__(self, config: AnyConfig, backend: Backend) -> None:
        self.started = time.perf_counter()
        self.config, self.backend, self.comm = config, backend, backend.comm
        self.main = backend.comm.rank == 0
        self.folder = RunFolder(config.run_dir)
        self.progress = Progress()
        self.tracker = before_the_run() if self.main else silent()
        self.warnings: list[str] = []
        self.alarms: Alarms | None = None  # made with the first line of metrics
        self.resumed_seconds = 0.0

    def open(self) -> None:
        """Make the folder, or check that this configuration may go on with it."""
        if self.main:
            self.folder.open(self.config, self.backend.versions())
        self.comm.barrier()

    def resume(self, restore: Callable[[Path, Progress], None]) -> None:
        """Continue from the newest checkpoint if there is one; ``restore`` reads the rest of its folder."""
        latest = self.folder.latest()
        if latest is not None:
            self.progress, folder = latest
            restore(folder, self.progress)
        self.resumed_seconds = self.progress.seconds
        if self.main:
            self.tracker = Tracker(
                self.folder.path,
                list(self.config.tracking.to),
                config_text=dump(self.config),
                steps=self.config.train.steps,
                resume_step=-1 if latest is None else self.progress.step,
            )
        self.backend.compile_log.announce = self.tracker.note

    def announce(self, warnings: Sequence[str]) -> None:
        """Show what a reader of the curves must know, on the terminal and in the report."""
        resumed = [f"resumed after step {self.progress.step}"] if self.progress.step else []
        self.warnings = [*warnings, *resumed]
        for text in self.warnings:
            self.note(text)

    def note(self, text: str) -> None:
        """Show one line on the terminal."""
        self.tracker.note(text)

    def start_clock(self) -> Clock:
        """A clock whose first lap begins now."""
        return Clock(self.backend.compile_log)

    def steps(self) -> Iterator[tuple[int, Clock]]:
        """The numbers of the steps to make, up to the last or until there is a reason to stop, and the run's clock."""
        clock = self.start_clock()
        if self.progress.stopped_because is None and self.progress.step < self.config.train.steps:
            self.note(f"step {self.progress.step + 1} of {self.config.train.steps} begins")
        while self.progress.stopped_because is None and self.progress.step < self.config.train.steps:
            yield self.progress.step + 1, clock

    def done(self, step: int, *, stream: Mapping[str, Any], algorithm: Mapping[str, Any] | None = None) -> None:
        """Record that a step is done and where data and algorithm stand after it: a resumed run goes on from there."""
        if SPECIAL_TEXT in stream["counts"] and SPECIAL_TEXT not in self.progress.stream.get("counts", {}):
            self.note(f"step {step}: {SPECIAL_TEXT_NOTE}")
        self.progress.step, self.progress.stream = step, dict(stream)
        self.progress.algorithm = dict(algorithm or {})

    def evaluation_due(self, step: int) -> bool:
        """True if held-out data is evaluated after this step: by interval, and always after the last."""
        every = self.config.eval.every
        return step == self.config.train.steps or bool(every and step % every == 0)

    def evaluated(self, step: int, metrics: dict[str, float], judged: Judged) -> None:
        """Record an evaluation: the first one as the line of step 0, the best step, and the reason to stop.

        Args:
            step: 0 for the untrained model.
            metrics: named ``eval/...``.
            judged: the figure among them that the run is judged by.
        """
        progress, target, value = self.progress, self.config.eval.stop_at, metrics[judged.metric]
        progress.after, progress.judged_by = metrics, judged.metric
        if step == 0:
            progress.before = metrics
            self.tracker.log_untrained(metrics)
            self.note(f"held-out {judged.name} before training: {value:.3f} ({judged.counted})")
            return
        if progress.best is None or judged.sign * value > judged.sign * progress.best:
            progress.best, progress.best_step = value, step
        if target is not None and judged.sign * value >= judged.sign * target:
            progress.stopped_because = f"held-out {judged.name} {value:.3f} reached the target {target}"

    def log(
        self, step: int, metrics: dict[str, float], clock: Clock, *, reasons: Mapping[str, str] | None = None
    ) -> None:
        """Write a line of metrics with times and memory; this ends the clock's lap. Every rank calls it.

        Call it before :meth:`keep`: a run killed in between makes this step, and its line, again.

        Args:
            reasons: reward component -> why the first of its failed samples failed.

        Raises:
            RunFailed: an alarm says that the run learns nothing, and ``train.on_alarm`` is ``stop``.
        """
        memory = {f"memory/{name}": value for name, value in self.backend.memory().items()}
        alarms = self._alarms(step, metrics, reasons) if self.main else Sounding({}, [], "")
        self.tracker.log(step, {**metrics, **alarms.states, **clock.lap(), **memory})
        self.warnings += alarms.notes
        for text in alarms.notes:
            self.note(text)
        if self.config.train.on_alarm == "stop":
            reason = self.comm.gather_objects(alarms.stop)[0]  # rank 0 has the run's history
            if reason:
                raise RunFailed(f"step {step}: {reason}")

    def _alarms(self, step: int, metrics: dict[str, float], reasons: Mapping[str, str] | None) -> Sounding:
        """What the alarms say of this step."""
        if self.alarms is None:
            self.alarms = Alarms.of_run(self.config, self.progress.before)
        return self.alarms.observe(step, metrics, reasons)

    def keep(self, step: int, write: Callable[[Path], None], gather: Callable[[], None], clock: Clock) -> None:
        """Write a checkpoint when due: by interval, at the end, or because it is the best so far.

        Args:
            gather: called on every rank, before ``write`` fills the folder on rank 0.
            clock: the time of the checkpoint goes into its lap, which is that of the next step after :meth:`log`.
        """
        settings, progress = self.config.checkpoint, self.progress
        due = settings.every and step % settings.every == 0
        last = step == self.config.train.steps or progress.stopped_because is not None
        best = settings.keep_best and progress.best_step == step
        if due or last or best:
            with clock.phase("save"):
                gather()
                self.write_checkpoint(step, write)

    def write_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Write ``step_N/`` and delete old checkpoints; ``write`` fills ``policy/`` and ``optimizer/`` of the folder."""
        settings, progress = self.config.checkpoint, self.progress
        progress.seconds = self.seconds()
        if self.main:

            def fill(folder: Path) -> None:
                write(folder)
                copy_files(find_folder(self.config.model.path), folder / "policy", TOKENIZER_FILES)

            checkpoint.save(self.folder.checkpoints, step, state(progress), fill)
            protected = [progress.best_step] if settings.keep_best and progress.best_step is not None else []
            checkpoint.prune(self.folder.checkpoints, keep_last=settings.keep_last, protected=protected)
        self.comm.barrier()

    def failure(self, step: int, batch: Batch, error: RunFailed) -> RunFailed:
        """Save the batch that a step failed on; returns the error that names the step and the file."""
        evidence = self.folder.save_evidence(step, batch, str(error)) if self.main else ""
        return RunFailed(f"step {step}: {error}. The batch is in {evidence}")

    def seconds(self) -> float:
        """Wall seconds of the run, those before a resume included."""
        return self.resumed_seconds + time.perf_counter() - self.started

    def close(self) -> None:
        """Close the tracker."""
        self.tracker.close()

    def finish(self, headline: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
        """Write summary and report; returns the part of the summary that the command prints last."""
        progress = self.progress
        report = str(self.folder.path / "report.html")
        summary = {**headline, "seconds": round(self.seconds(), 1), "report": report}
        if self.main:
            stopped = progress.stopped_because or "all steps done"
            common = {"steps": progress.step, "best_step": progress.best_step, "stopped_because": stopped}
            closing = self._closing_lines()
            for text in closing:
                self.note(f"warning: {text}")
            self.warnings += closing
            self.folder.write_summary({**summary, **common, "warnings": self.warnings, **details})
            render(self.folder.path)
        self.comm.barrier()
        return summary

    def _closing_lines(self) -> list[str]:
        """What the alarms say of the whole run, and what to look at if it has not learned."""
        if self.alarms is None:
            return []
        return [*self.alarms.summary(), *advice(self.alarms.history, self.alarms.sounding)]


def load_run_tokenizer(config: AnyConfig) -> Tokenizer:
    """Load the model's tokenizer with the chat template that the data section asks for."""
    return load_tokenizer(
        config.model.path,
        chat_template=config.data.chat_template,
        trust_remote_code=config.model.trust_remote_code,
        special_tokens=config.data.rendered.special_tokens,
    )
