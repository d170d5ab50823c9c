"""Held-out metrics of offline training: the means that the loss reports, and the calibration of scores."""

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
from ..data.examples import Example
from ..errors import ConfigError
from ..losses.xp import NUMPY
from ..metrics.intervals import wilson_interval
from ..run.checkpoint import verify
from ..tokenizers.tokenizer import Tokenizer
from .offline_steps import Steps, load_steps
from .rows import first_of_each, open_examples
from .session import leaving, load_run_tokenizer

BINS = 10  # of the calibration error


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutRows:
    """Rows that are never trained on.

    Attributes:
        step: examples evaluated at once, over all ranks: as many as in training, for losses with a batch baseline.
        stored: log-probs of the reference policy; None: they are computed each time.
    """

    examples: Sequence[Example]
    step: int
    stored: StoredLogProbs | None = None

    def evaluate(self, steps: Steps) -> dict[str, float]:
        """``eval/loss``, the loss's means, ``eval/problems`` (rows), ``eval/ece``; the same on every rank."""
        parts = [
            self._part(steps, self.examples[start : start + self.step])
            for start in range(0, len(self.examples), self.step)
        ]
        sums = combine([part.sums for part in parts])
        loss, weight = sums.pop("loss"), sums.pop("weight")
        metrics = {"loss": loss / max(1.0, weight), **steps.task.figures(sums), "problems": float(len(self.examples))}
        confidence = np.concatenate([part.confidence for part in parts])
        correct = np.concatenate([part.correct for part in parts])
        if len(confidence):
            metrics["ece"] = calibration_error(confidence, correct)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def _part(self, steps: Steps, examples: Sequence[Example]) -> EvaluatedPart:
        """Evaluate some examples, shared out over the ranks."""
        task = steps.task
        batch = steps.batch(examples, self.stored)
        outputs = steps.outputs(batch).astype(np.float64)
        tensors = {name: np.asarray(array, np.float64) for name, array in batch.loss_tensors().items()}
        loss, sums = task.loss(NUMPY, outputs, tensors)
        sums["tokens"] = tensors["mask"].sum()
        weight = sums[task.loss.counted_by]
        scores = task.scores(NUMPY, outputs, tensors)
        confidence, correct = (np.zeros(0), np.zeros(0)) if scores is None else decisions(task, scores, tensors)
        sums = {name: float(total) for name, total in sums.items()}
        ranks = steps.rows.gather_objects((float(loss), sums, float(weight), confidence, correct))
        losses, all_sums, weights, confidences, corrects = zip(*ranks, strict=True)
        # the loss of a rank is its share of a mean over the part: times the weight of the part it is a sum
        total = {"loss": sum(losses) * sum(weights), "weight": sum(weights)}
        return EvaluatedPart(
            sums=combine([total, *all_sums]),
            confidence=np.concatenate(confidences),
            correct=np.concatenate(corrects),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedPart:
    """Some held-out examples, over all ranks.

    Attributes:
        sums: metric sums of the loss, with ``loss`` and the ``weight`` that it is a sum over.
        confidence, correct: of each decision ``[n]``: its confidence, and 1 where it is right, 0.5 for a tie.
    """

    sums: dict[str, float]
    confidence: NDArray[np.float64]
    correct: NDArray[np.float64]


def decisions(
    task: Task, scores: NDArray[Any], tensors: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidence and correctness (a tie: 0.5) of each decision: which of a pair is better, or whether a row is good."""
    if task.pairs:
        gap = scores[0::2] - scores[1::2]
    else:
        gap = (scores - task.threshold(tensors)) * np.sign(tensors["label"][:, 0] - 0.5)
    return 1.0 / (1.0 + np.exp(-np.abs(gap))), 0.5 + 0.5 * np.sign(gap)


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.float64]) -> float:
    """Expected calibration error: |mean confidence - accuracy| in ten equal bins of 0.5..1, weighted by their size.

    Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning". At 0 a score difference means
    the probability that it implies.
    """
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    gaps = [
        abs(float(confidence[bins == number].sum()) - float(correct[bins == number].sum())) for number in range(BINS)
    ]
    return float(sum(gaps) / max(1, len(confidence)))


def with_intervals(metrics: dict[str, float]) -> dict[str, Any]:
    """Held-out metrics without their prefix; an accuracy with its 95% interval."""
    plain: dict[str, Any] = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    if "accuracy" in plain:
        rows = int(plain["problems"])
        low, high = wilson_interval(min(1.0, max(0.0, plain["accuracy"])) * rows, rows)
        plain["accuracy_interval"] = [low, high]
    return plain


def load_held_out_rows(config: OfflineConfig, task: Task, tokenizer: Tokenizer) -> list[Example]:
    """All usable held-out rows, tokenised like the training data; none without ``eval.source``."""
    if config.eval.source is None:
        return []
    return first_of_each(open_examples(config, task, tokenizer, config.eval.source).all(), config.eval.limit)


def evaluate_offline(config: OfflineConfig, checkpoint: Path | None = None) -> dict[str, Any]:
    """Evaluate on held-out rows without training: loss, accuracy with its 95% interval, calibration.

    Args:
        checkpoint: a folder ``step_N`` of a run made from this configuration; None: the model at ``model.path``, which
            is then its own reference policy, so that log-ratios are 0.

    Raises:
        ConfigError: no ``eval.source``.
        CheckpointError: a checkpoint that is incomplete or corrupt.
    """
    if config.eval.source is None:
        raise ConfigError("eval.source is not set: there are no held-out rows to evaluate on")
    task = resolve_objective(config)
    examples = load_held_out_rows(config, task, load_run_tokenizer(config))
    backend = load_backend(config)
    with leaving(backend.comm):
        steps = load_steps(config, task, backend)
        if checkpoint is not None:
            verify(checkpoint)
            steps.model.load_state(checkpoint / "policy", checkpoint / "optimizer")
        rows = HeldOutRows(examples=examples, step=config.train.prompts_per_step)
        return with_intervals(rows.evaluate(steps))
