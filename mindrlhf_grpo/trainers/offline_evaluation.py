"""Held-out figures of training on given rows: the loss's own means, and how well scores are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..algorithms.task import Task, resolve_objective
from ..backend import load_backend
from ..batches.reference_logps import StoredLogProbs
from ..batches.sums import combine
from ..config.offline import OfflineConfig
from ..data.examples import Example, ExampleStream
from ..errors import ConfigError
from ..losses.xp import NUMPY
from ..metrics.intervals import wilson_interval
from ..run.checkpoint import verify
from ..tokenizers.tokenizer import Tokenizer
from .offline_steps import Steps, load_model
from .session import tokenizer_of

BINS = 10  # of the calibration error


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutRows:
    """Rows that are never trained on.

    Attributes:
        step: examples evaluated at once, over all ranks; a baseline over the batch sees as many as in training.
        stored: log-probs of the reference, where they are not computed each time.
    """

    examples: Sequence[Example]
    step: int
    stored: StoredLogProbs | None = None

    def evaluate(self, steps: Steps) -> dict[str, float]:
        """``eval/loss``, the loss's means, ``eval/problems`` (rows), ``eval/ece``; the same on every rank."""
        parts = [
            self.part(steps, self.examples[start : start + self.step])
            for start in range(0, len(self.examples), self.step)
        ]
        sums = combine([part for part, _, _ in parts])
        loss, weight = sums.pop("loss"), sums.pop("weight")
        figures = {"loss": loss / max(1.0, weight), **steps.task.figures(sums), "problems": float(len(self.examples))}
        confidence = np.concatenate([part for _, part, _ in parts])
        right = np.concatenate([part for _, _, part in parts])
        if len(confidence):
            figures["ece"] = calibration_error(confidence, right)
        return {f"eval/{name}": value for name, value in figures.items()}

    def part(
        self, steps: Steps, examples: Sequence[Example]
    ) -> tuple[dict[str, float], NDArray[np.float64], NDArray[np.float64]]:
        """Sums over some examples of all ranks, and of each decision its confidence and whether it is right."""
        task = steps.task
        batch = steps.batch(examples, self.stored)
        outputs = steps.outputs(batch).astype(np.float64)
        tensors = {name: np.asarray(array, np.float64) for name, array in batch.loss_tensors().items()}
        loss, sums = task.loss(NUMPY, outputs, tensors)
        sums["tokens"] = tensors["mask"].sum()
        weight = sums[task.loss.counted_by]
        scores = task.scores(NUMPY, outputs, tensors)
        decisions = (np.zeros(0), np.zeros(0)) if scores is None else decided(task, scores, tensors)
        gathered = steps.comm.gather_objects(
            (float(loss), {name: float(total) for name, total in sums.items()}, float(weight), decisions)
        )
        whole = sum(part[2] for part in gathered)
        # the loss of a part is a mean over it: weighed by what it is a mean of
        total = {"loss": sum(part[0] for part in gathered) * whole, "weight": whole}
        confidence, right = (np.concatenate([part[3][place] for part in gathered]) for place in (0, 1))
        return combine([total, *(part[1] for part in gathered)]), confidence, right


def decided(
    task: Task, scores: NDArray[Any], tensors: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How sure scores are, and whether they are right (a tie: half): which of a pair is better, or is a row good."""
    if task.pairs:
        gap = scores[0::2] - scores[1::2]
    else:
        gap = (scores - task.threshold(tensors)) * np.sign(tensors["label"][:, 0] - 0.5)
    return 1.0 / (1.0 + np.exp(-np.abs(gap))), 0.5 + 0.5 * np.sign(gap)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Expected calibration error: |mean confidence - share right| in ten equal bins of 0.5..1, weighed by their size.

    Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning". 0: a score difference means
    the probability that it says.
    """
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    gaps = [abs(float(confidence[bins == number].sum()) - float(right[bins == number].sum())) for number in range(BINS)]
    return float(sum(gaps) / max(1, len(confidence)))


def with_intervals(figures: dict[str, float]) -> dict[str, Any]:
    """Held-out figures without their prefix; an accuracy with its 95% interval."""
    plain: dict[str, Any] = {name.removeprefix("eval/"): value for name, value in figures.items()}
    if "accuracy" in plain:
        rows = int(plain["problems"])
        low, high = wilson_interval(min(1.0, max(0.0, plain["accuracy"])) * rows, rows)
        plain["accuracy_interval"] = [low, high]
    return plain


def held_out_rows(config: OfflineConfig, task: Task, tokenizer: Tokenizer) -> list[Example]:
    """Every usable held-out row, tokenised like the training data; none without ``eval.source``."""
    if config.eval.source is None:
        return []
    data = config.data.model_copy(update={"source": config.eval.source})
    return ExampleStream(data, task.encoder, tokenizer, seed=config.seed).all()


def evaluate_offline(config: OfflineConfig, checkpoint: Path | None = None) -> dict[str, Any]:
    """Held-out figures without training: loss, accuracy with its 95% interval, calibration.

    Args:
        checkpoint: a folder ``step_N`` of a run made from this configuration; None: the model at ``model.path``, which
            is then its own reference, so that log-ratios are 0.

    Raises:
        ConfigError: no ``eval.source``.
        CheckpointError: a checkpoint that is incomplete or corrupt.
    """
    if config.eval.source is None:
        raise ConfigError("eval.source is not set: there are no held-out rows to evaluate on")
    task = resolve_objective(config)
    examples = held_out_rows(config, task, tokenizer_of(config))
    backend = load_backend(config)
    try:
        model = load_model(config, task, backend)
        if checkpoint is not None:
            verify(checkpoint)
            model.load_state(checkpoint / "policy", checkpoint / "optimizer")
        steps = Steps(task=task, model=model, comm=backend.comm)
        rows = HeldOutRows(examples=examples, step=config.train.prompts_per_step)
        return with_intervals(rows.evaluate(steps))
    finally:
        backend.comm.close()
