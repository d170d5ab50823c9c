"""A head of one number trained on frozen embeddings: binary cross-entropy, AdamW, in NumPy and the same for every backend.

Embeddings are brought to mean 0 and deviation 1 for training; that is folded into the first layer afterwards.
Legend: N rows, E hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...model_files.value_head import LEAK, NAME, ValueHead

Array = NDArray[np.float64]
BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW, https://arxiv.org/abs/1711.05101


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTraining:
    """How a head is trained.

    Attributes:
        widths: of the layers between E and 1, each followed by a leaky ReLU.
        epochs: passes over the rows, in batches of ``batch`` rows.
        held_out: share of the rows that is kept apart to measure on; 0: none.
    """

    widths: Sequence[int] = (256, 64)
    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    held_out: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """A head and what came out: mean loss and share of right signs, of the rows trained on and of those held out."""

    head: ValueHead
    figures: dict[str, float]


def train_head(embeddings: NDArray[Any], labels: NDArray[Any], settings: HeadTraining) -> TrainedHead:
    """A head whose value is the log-odds of label 1.

    Args:
        embeddings, labels: ``[N, E]``, and ``[N]`` of 0 and 1.

    Raises:
        DataError: fewer than two rows to train on, labels that are not 0 or 1 or are all equal, an embedding that is
            not finite.
    """
    x, y = np.asarray(embeddings, np.float64), np.asarray(labels, np.float64)
    order = np.random.default_rng(settings.seed).permutation(len(x))
    kept = int(len(x) * settings.held_out)
    held, train = order[:kept], order[kept:]
    check_rows(x, y, train)
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0) + 1e-6
    layers = fitted((x[train] - mean) / deviation, y[train], settings)
    head = folded(layers, mean, deviation)
    figures = {"rows": float(len(train)), **measured(head, x[train], y[train], "")}
    if kept:
        figures |= {"held_out/rows": float(kept), **measured(head, x[held], y[held], "held_out/")}
    return TrainedHead(head=head, figures=figures)


def check_rows(x: Array, y: Array, train: NDArray[np.int64]) -> None:
    if len(train) < 2:
        raise DataError(f"{len(train)} rows are too few to train a head on")
    if not np.isin(y, (0, 1)).all() or len(np.unique(y[train])) < 2:
        counts = {str(value): int((y == value).sum()) for value in np.unique(y)}
        raise DataError(f"labels must be 0 and 1, both of them there; found {counts}")
    if not np.isfinite(x).all():
        raise DataError("embeddings hold numbers that are not finite")


def fitted(x: Array, y: Array, settings: HeadTraining) -> list[tuple[Array, Array]]:
    """(weight, bias) of each layer after AdamW on batches in a seeded order."""
    draw = np.random.default_rng((settings.seed, 1))
    sizes = [x.shape[1], *settings.widths, 1]
    layers = [
        (draw.standard_normal((after, before)) * np.sqrt(2.0 / before), np.zeros(after))
        for before, after in itertools.pairwise(sizes)
    ]
    flat = [part for layer in layers for part in layer]
    first, second = ([np.zeros_like(part) for part in flat] for _ in range(2))
    step = 0
    for _ in range(settings.epochs):
        for rows in np.split(draw.permutation(len(x)), range(settings.batch, len(x), settings.batch)):
            step += 1
            for place, gradient in enumerate(gradients(layers, x[rows], y[rows])):
                first[place] = BETAS[0] * first[place] + (1 - BETAS[0]) * gradient
                second[place] = BETAS[1] * second[place] + (1 - BETAS[1]) * gradient**2
                unbiased = first[place] / (1 - BETAS[0] ** step)
                scale = np.sqrt(second[place] / (1 - BETAS[1] ** step)) + EPS
                flat[place] *= 1 - settings.learning_rate * settings.weight_decay
                flat[place] -= settings.learning_rate * unbiased / scale
    return layers


def gradients(layers: list[tuple[Array, Array]], x: Array, y: Array) -> list[Array]:
    """Of the mean binary cross-entropy: weight and bias of each layer in turn."""
    inputs, sums = [x], []
    for place, (weight, bias) in enumerate(layers):
        sums.append(inputs[-1] @ weight.T + bias)
        if place < len(layers) - 1:
            inputs.append(np.maximum(sums[-1], LEAK * sums[-1]))
    flowing = (1.0 / (1.0 + np.exp(-np.clip(sums[-1], -500, 500))) - y[:, None]) / len(x)
    found: list[Array] = []
    for place in reversed(range(len(layers))):
        found = [flowing.T @ inputs[place], flowing.sum(axis=0), *found]
        if place:
            flowing = (flowing @ layers[place][0]) * np.where(sums[place - 1] > 0, 1.0, LEAK)
    return found


def folded(layers: list[tuple[Array, Array]], mean: Array, deviation: Array) -> ValueHead:
    """The head on embeddings as they are."""
    (weight, bias), *others = layers
    weight = weight / deviation
    tensors: dict[str, NDArray[np.float32]] = {}
    for place, (matrix, offset) in enumerate([(weight, bias - weight @ mean), *others]):
        name = f"{NAME}.{2 * place}" if others else NAME
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = matrix.astype(np.float32), offset.astype(np.float32)
    return ValueHead(tensors=tensors, activation="leaky_relu")


def measured(head: ValueHead, x: Array, y: Array, prefix: str) -> dict[str, float]:
    """Loss and accuracy of the head as it will be stored."""
    values = head.apply(x)
    losses = np.logaddexp(0.0, values) - y * values
    return {f"{prefix}loss": float(losses.mean()), f"{prefix}accuracy": float(((values > 0) == (y > 0.5)).mean())}
