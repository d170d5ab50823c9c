"""The run session: folder, lock, progress, clock, tracker and alarms of one training run, whatever it trains.

It also answers what machines do to runs: a signal ends a run after a step, with a checkpoint; a checkpoint that cannot be
written is an alarm, and an error only if it is the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import Backend, Comm
from ..capacity.checkpoint_size import predicted_checkpoint
from ..config.file import AnyConfig
from ..data.stream import SPECIAL_TEXT
from ..errors import CheckpointError, DiskFull, Interrupted, RunFailed
from ..metrics.advice import advice
from ..metrics.alarms import Alarms, Sounding
from ..model_files.checkpoint_folders import BEST, LATEST, steps
from ..model_files.folder import PROCESSOR_FILES, TOKENIZER_FILES, copy_files, find_folder
from ..report import render
from ..run import checkpoint
from ..run.clock import Clock
from ..run.folder import Progress, RunFolder, shareable, state
from ..run.lock import RunLock
from ..run.shortages import as_size, first_sentence, free_bytes, is_disk_full
from ..run.stop_signals import StopSignals, name_of
from ..run.tracking import Tracker, before_the_run, silent
from ..tokenizers.tokenizer import Tokenizer, load_tokenizer
from ..tokenizers.tokenizer_files import find_tokenizer
from ..types import Batch
from .resolved import resolved_settings

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
        CheckpointError: the run's folder is in use, or holds a run with other settings or a damaged checkpoint.
    """

    def __init__(self, config: AnyConfig, backend: Backend) -> None:
        self.started = time.perf_counter()
        self.config, self.backend, self.comm = config, backend, backend.comm
        self.main = backend.comm.rank == 0
        self.folder = RunFolder(config.run_dir)
        self.lock = RunLock(config.run_dir)
        self.signals = StopSignals(tell=self.main)
        self.progress = Progress()
        self.tracker = before_the_run() if self.main else silent()
        self.warnings: list[str] = []
        self.alarms: Alarms | None = None  # made with the first line of metrics
        self.resumed_seconds = 0.0

    def open(self) -> None:
        """Make the folder, or check that this configuration may go on with it."""
        if self.main:
            taken_over = self.lock.acquire()
            self.warnings += [taken_over] if taken_over else []
            try:
                self.folder.open(self.config, self.backend.versions(), resolved_settings(self.config))
            except BaseException:
                self.lock.release()
                raise
        self.comm.barrier()

    def resume(self, restore: Callable[[Path, Progress], None]) -> None:
        """Continue from the newest checkpoint if there is one; ``restore`` reads the rest of its folder.

        Raises:
            CheckpointError: on every rank, if it is damaged, or if the ranks do not see the same one.
        """
        folder = self._agreed_checkpoint()
        if folder is not None:
            self.progress = Progress.of(checkpoint.read_state(folder))
            restore(folder, self.progress)
        self.resumed_seconds = self.progress.seconds
        if self.main:
            self.tracker = Tracker(
                self.folder.path,
                list(self.config.tracking.to),
                config_text=shareable(self.config),
                steps=self.config.train.steps,
                resume_step=-1 if folder is None else self.progress.step,
            )
        self.backend.compile_log.announce = self.tracker.note

    def _agreed_checkpoint(self) -> Path | None:
        """The checkpoint that all ranks go on from. Rank 0 verifies it, the others must see the same folder."""
        folder, damaged = None, ""
        if self.main:
            try:
                folder, lines = checkpoint.newest(
                    self.folder.checkpoints, skip_damaged=self.config.checkpoint.damaged == "skip"
                )
                self.warnings += lines
            except CheckpointError as error:
                damaged = str(error)
        chosen, damaged = self.comm.gather_objects((folder, damaged))[0]
        if damaged:
            raise CheckpointError(damaged)
        own = None if chosen is None else self.folder.checkpoint(checkpoint.step_of(chosen))
        seen = self.comm.gather_objects(None if own is None else checkpoint.identity(own))
        blind = [rank for rank, identity in enumerate(seen) if identity != seen[0]]
        if blind:
            raise CheckpointError(
                f"rank 0 goes on from {chosen}, which rank {blind[0]} does not see (or sees another one): run_dir must "
                "be on a file system that all machines share"
            )
        return own

    def announce(self, warnings: Sequence[str]) -> None:
        """Show what a reader of the curves must know, on the terminal and in the report."""
        resumed = [f"resumed after step {self.progress.step}"] if self.progress.step else []
        self.warnings = [*self.warnings, *warnings, *resumed]
        for text in self.warnings:
            self.note(text)

    def note(self, text: str) -> None:
        """Show one line on the terminal."""
        self.tracker.note(text)

    def start_clock(self) -> Clock:
        """A clock whose first lap begins now. From here on a signal ends the run after a step."""
        self.signals.install()
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
        self.stop_without_progress(step)

    def stop_without_progress(self, step: int) -> None:
        """After an evaluation: stop the run where ``eval.patience`` evaluations in a row were not the best."""
        settings, progress = self.config.eval, self.progress
        if not settings.patience or progress.best_step is None or progress.stopped_because is not None:
            return
        waited = (step - progress.best_step) // settings.every
        if waited >= settings.patience:
            progress.stopped_because = (
                f"no better held-out metric in {waited} evaluations since step {progress.best_step} (eval.patience)"
            )

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
        """Write a checkpoint when due: by interval, at the end, as the best so far, or because a signal ends the run.

        Args:
            gather: called on every rank, before ``write`` fills the folder on rank 0.
            clock: the time of the checkpoint goes into its lap, which is that of the next step after :meth:`log`.

        Raises:
            Interrupted: on every rank, after the checkpoint, if any of them has received a signal.
            DiskFull: the last checkpoint could not be written; an earlier one is an alarm, and the run goes on.
        """
        settings, progress = self.config.checkpoint, self.progress
        stopped = next(filter(None, self.comm.gather_objects(self.signals.received)), 0)
        due = settings.every and step % settings.every == 0
        last = step == self.config.train.steps or progress.stopped_because is not None
        best = settings.keep_best and progress.best_step == step
        if due or last or best or stopped:
            with clock.phase("save"):
                gather()
                self.write_checkpoint(step, write, last=bool(last or stopped))
        if stopped and not last:
            raise Interrupted(
                f"{name_of(stopped)} ended the run after step {step}, which is saved; the same command goes on from there",
                stopped,
            )

    def write_checkpoint(self, step: int, write: Callable[[Path], None], *, last: bool = True) -> None:
        """Write ``step_N/`` and delete old checkpoints; ``write`` fills ``policy/`` and ``optimizer/`` of the folder.

        Args:
            last: a checkpoint that cannot be written is an error; otherwise it is an alarm.
        """
        self.progress.seconds = self.seconds()
        failed = self.comm.gather_objects(self._write_checkpoint(step, write) if self.main else None)[0]
        if failed is not None and last:
            raise failed
        if failed is not None and self.main:
            self.warnings.append(f"alarm checkpoint at step {step}: {failed}")
            self.note(f"{self.warnings[-1]}; the run goes on and tries again with the next checkpoint")

    def _write_checkpoint(self, step: int, write: Callable[[Path], None]) -> RunFailed | None:
        """Write it on rank 0; returns the reason why the disk did not take it."""
        settings, best, model = self.config.checkpoint, self.progress.best_step, self.config.model
        tokenizer = find_tokenizer(model.tokenizer_path, trust_remote_code=model.trust_remote_code)

        def fill(folder: Path) -> None:
            write(folder)
            copy_files(find_folder(model.path), folder / "policy", PROCESSOR_FILES)
            copy_files(tokenizer.folder, folder / "policy", TOKENIZER_FILES)

        root = self.folder.checkpoints
        try:
            checkpoint.save(root, step, state(self.progress), fill)
        except checkpoint.Unwritten as failed:
            return self._unwritten(step, failed)
        checkpoint.prune(root, keep_last=settings.keep_last, protected=[best] if settings.keep_best and best else [])
        checkpoint.link(root, LATEST, step)
        checkpoint.link(root, BEST, best)
        return None

    def _unwritten(self, step: int, failed: checkpoint.Unwritten) -> RunFailed:
        """The error of a checkpoint that the disk did not take."""
        root = self.folder.checkpoints
        saved = steps(root)
        text = f"the checkpoint of step {step} could not be written: {first_sentence(failed.error)}"
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "there is no earlier checkpoint"
        if not is_disk_full(failed.error):
            return RunFailed(f"{text}; {kept}")
        needed = checkpoint.size(self.folder.checkpoint(saved[-1])) if saved else predicted_checkpoint(self.config)
        return DiskFull(
            f"{text}. It needs about {as_size(max(needed, failed.written))}, {as_size(free_bytes(root))} are free in {root}; "
            f"{kept}. Make room, or keep fewer (checkpoint.keep_last); the same command goes on",
            placed=True,
        )

    def failure(self, step: int, batch: Batch, error: RunFailed) -> RunFailed:
        """Save the batch that a step failed on, each rank its rows; returns the error that names the step and the file."""
        text = f"step {step}: {error}"
        try:
            evidence = self.folder.save_evidence(step, batch, str(error), rank=self.comm.rank)
        except OSError as failed:
            return RunFailed(f"{text}. The batch could not be kept: {failed}")
        others = (
            f" (its rows on other ranks in {evidence.stem}_rank_N.npz)"
            if self.main and self.comm.world_size > 1
            else ""
        )
        return RunFailed(f"{text}. The batch is in {evidence}{others}")

    def seconds(self) -> float:
        """Wall seconds of the run, those before a resume included."""
        return self.resumed_seconds + time.perf_counter() - self.started

    def close(self) -> None:
        """Close the tracker, give up the folder, and leave signals to whoever had them before."""
        self.signals.restore()
        self.tracker.close()
        self.lock.release()

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


@contextmanager
def leaving(comm: Comm) -> Iterator[None]:
    """Leave the group of ranks after the block; after an error without waiting for the others."""
    try:
        yield
    except BaseException:
        comm.abandon()
        raise
    comm.close()


def load_run_tokenizer(config: AnyConfig) -> Tokenizer:
    """Load the model's tokenizer, or the one given instead, with the chat template that the data section asks for."""
    return load_tokenizer(
        config.model.tokenizer_path,
        chat_template=config.data.chat_template,
        trust_remote_code=config.model.trust_remote_code,
        special_tokens=config.data.rendered.special_tokens,
    )
