"""Training of a head with one output on frozen embeddings: binary cross-entropy and AdamW, in NumPy for every backend.

Embeddings are scaled to mean 0 and deviation 1 for training; the scaling is folded into the first layer afterwards.
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
    """Settings of a head's training.

    Attributes:
        widths: widths of the layers between E and 1, each followed by a leaky ReLU.
        epochs: passes over the rows, in batches of ``batch`` rows.
        held_out: share of the rows held out for evaluation; 0: none.
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
    """A head with its mean loss and accuracy on the training rows and on those held out."""

    head: ValueHead
    figures: dict[str, float]


def train_head(embeddings: NDArray[Any], labels: NDArray[Any], settings: HeadTraining) -> TrainedHead:
    """Train a head whose value is the log-odds of label 1.

    Args:
        embeddings, labels: ``[N, E]``, and ``[N]`` of 0 and 1.

    Raises:
        DataError: fewer than two training rows, labels that are not 0 or 1 or are all equal, or a non-finite embedding.
    """
    x, y = np.asarray(embeddings, np.float64), np.asarray(labels, np.float64)
    order = np.random.default_rng(settings.seed).permutation(len(x))
    held_count = int(len(x) * settings.held_out)
    held, train = order[:held_count], order[held_count:]
    check_rows(x, y, train)
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0) + 1e-6
    layers = fit_layers((x[train] - mean) / deviation, y[train], settings)
    head = fold_scaling(layers, mean, deviation)
    figures = {"rows": float(len(train)), **evaluate(head, x[train], y[train], "")}
    if held_count:
        figures |= {"held_out/rows": float(held_count), **evaluate(head, x[held], y[held], "held_out/")}
    return TrainedHead(head=head, figures=figures)


def check_rows(x: Array, y: Array, train: NDArray[np.int64]) -> None:
    if len(train) < 2:
        raise DataError(f"{len(train)} rows are too few to train a head on")
    if not np.isin(y, (0, 1)).all() or len(np.unique(y[train])) < 2:
        counts = {str(value): int((y == value).sum()) for value in np.unique(y)}
        raise DataError(f"labels must be 0 and 1, both of them there; found {counts}")
    if not np.isfinite(x).all():
        raise DataError("embeddings hold numbers that are not finite")


def fit_layers(x: Array, y: Array, settings: HeadTraining) -> list[tuple[Array, Array]]:
    """Return (weight, bias) of each layer after AdamW on batches in a seeded order."""
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
    """Return the gradients of the mean binary cross-entropy: weight and bias of each layer in turn."""
    inputs, sums = [x], []
    for place, (weight, bias) in enumerate(layers):
        sums.append(inputs[-1] @ weight.T + bias)
        if place < len(layers) - 1:
            inputs.append(np.maximum(sums[-1], LEAK * sums[-1]))
    upstream = (1.0 / (1.0 + np.exp(-np.clip(sums[-1], -500, 500))) - y[:, None]) / len(x)
    result: list[Array] = []
    for place in reversed(range(len(layers))):
        result = [upstream.T @ inputs[place], upstream.sum(axis=0), *result]
        if place:
            upstream = (upstream @ layers[place][0]) * np.where(sums[place - 1] > 0, 1.0, LEAK)
    return result


def fold_scaling(layers: list[tuple[Array, Array]], mean: Array, deviation: Array) -> ValueHead:
    """Return the head for embeddings without scaling."""
    (weight, bias), *others = layers
    weight = weight / deviation
    tensors: dict[str, NDArray[np.float32]] = {}
    for place, (matrix, offset) in enumerate([(weight, bias - weight @ mean), *others]):
        name = f"{NAME}.{2 * place}" if others else NAME
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = matrix.astype(np.float32), offset.astype(np.float32)
    return ValueHead(tensors=tensors, activation="leaky_relu")


def evaluate(head: ValueHead, x: Array, y: Array, prefix: str) -> dict[str, float]:
    """Return loss and accuracy of the head as it will be stored."""
    values = head.apply(x)
    losses = np.logaddexp(0.0, values) - y * values
    return {f"{prefix}loss": float(losses.mean()), f"{prefix}accuracy": float(((values > 0) == (y > 0.5)).mean())}
