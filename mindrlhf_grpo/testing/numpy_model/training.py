"""Log-probs, losses, gradients and optimizer steps of the NumPy Llama, with which a policy is compared.

Legend: N completions, T tokens of a completion, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backend import Loss
from ...batches.sums import clip_scale
from ...losses import xp
from ...types import Batch
from .llama import Array, Gradients, NumpyLlama, log_softmax

DIFFERENCE = 1e-6  # step of central differences in float64
EPSILON = 1e-8  # AdamW's


def sequence(batch: Batch, row: int) -> NDArray[np.int64]:
    """Prompt and completion of a row as one sequence ``[S]``."""
    prompt = batch.prompts[batch.prompt_of[row]]
    ids: NDArray[np.int64] = np.concatenate([prompt, batch.ids[row, : batch.lengths[row]]]).astype(np.int64)
    return ids


def layer_logps(model: NumpyLlama, batch: Batch) -> Array:
    """``[L + 1, N, T]``: log-probs of the batch's tokens read off after the embedding and after each layer."""
    read = np.zeros((model.architecture.layers + 1, *batch.ids.shape))
    for row, length in enumerate(batch.lengths):
        ids = sequence(batch, row)
        for end, hidden in enumerate(model.hidden_states(ids)[0]):
            rows = log_softmax(model.logits(hidden[-length - 1 : -1]) / batch.temperature)
            read[end, row, :length] = rows[np.arange(length), ids[-length:]]
    return read


def logps(model: NumpyLlama, batch: Batch) -> Array:
    """Log-probs ``[N, T]``, 0 past each length."""
    return np.asarray(layer_logps(model, batch)[-1])


def entropy(model: NumpyLlama, batch: Batch) -> Array:
    """Entropy in nats ``[N, T]`` of the distribution of each token, 0 past each length."""
    entropies = np.zeros(batch.ids.shape)
    for row, length in enumerate(batch.lengths):
        hidden = model.hidden_states(sequence(batch, row))[0][-1]
        rows = log_softmax(model.logits(hidden[-length - 1 : -1]) / batch.temperature)
        entropies[row, :length] = -(np.exp(rows) * rows).sum(axis=-1)
    return entropies


def loss_and_gradients(model: NumpyLlama, batch: Batch, loss: Loss) -> tuple[float, Gradients]:
    """Loss over all rows and its gradient by weight.

    The loss is differentiated by central differences of its log-probs, so it must not use ``stop_gradient``,
    which NumPy lacks: give the batch its ``old_logps``.
    """
    tensors = {name: np.asarray(array, np.float64) for name, array in batch.loss_tensors().items()}
    current = logps(model, batch)
    value = float(loss(xp.NUMPY, current, tensors)[0])
    slopes = loss_slopes(loss, current, tensors)
    total: Gradients = {name: np.zeros_like(weight) for name, weight in model.weights.items()}
    for row, length in enumerate(batch.lengths):
        ids = sequence(batch, row)
        hidden = model.hidden_states(ids)[0][-1]
        probabilities = np.exp(log_softmax(model.logits(hidden[-length - 1 : -1]) / batch.temperature))
        chosen = np.eye(model.architecture.vocabulary)[ids[-length:]]
        flowing = np.zeros((len(ids), model.architecture.vocabulary))
        flowing[-length - 1 : -1] = slopes[row, :length, None] * (chosen - probabilities) / batch.temperature
        for name, gradient in model.backward(ids, flowing).items():
            total[name] += gradient
    return value, total


def loss_slopes(loss: Loss, logps: Array, tensors: Mapping[str, Any]) -> Array:
    """Derivative ``[N, T]`` of a loss by each log-prob."""
    slopes = np.zeros_like(logps)
    for place in zip(*np.nonzero(tensors["mask"]), strict=True):
        step = np.zeros_like(logps)
        step[place] = DIFFERENCE
        above, below = (float(loss(xp.NUMPY, logps + sign * step, tensors)[0]) for sign in (1.0, -1.0))
        slopes[place] = (above - below) / (2.0 * DIFFERENCE)
    return slopes


def global_norm(gradients: Mapping[str, Array]) -> float:
    """L2 norm over all tensors."""
    return float(np.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values())))


class NumpyAdamW:
    """Decoupled weight decay Adam (https://arxiv.org/abs/1711.05101), with the gradient clipped by its global norm."""

    def __init__(self, *, betas: tuple[float, float], weight_decay: float, max_grad_norm: float) -> None:
        self.betas, self.weight_decay, self.max_grad_norm = betas, weight_decay, max_grad_norm
        self.steps = 0
        self.averages: Gradients = {}
        self.square_averages: Gradients = {}

    def step(self, weights: Gradients, gradients: Mapping[str, Array], *, learning_rate: float) -> None:
        """One step on ``weights``, in place."""
        self.steps += 1
        beta1, beta2 = self.betas
        scale = clip_scale(global_norm(gradients), self.max_grad_norm)
        for name, weight in weights.items():
            gradient = gradients[name] * scale
            average = self.averages.setdefault(name, np.zeros_like(weight))
            square = self.square_averages.setdefault(name, np.zeros_like(weight))
            average += (1.0 - beta1) * (gradient - average)
            square += (1.0 - beta2) * (gradient**2 - square)
            mean = average / (1.0 - beta1**self.steps)
            deviation = np.sqrt(square / (1.0 - beta2**self.steps))
            weight *= 1.0 - learning_rate * self.weight_decay
            weight -= learning_rate * mean / (deviation + EPSILON)
