"""Weights with an optimizer: what policy, critic and reward model have in common.

Dropout is always off. Gradients are summed over batches of one step, micro-batches and ranks; the loss weights of a
batch carry the denominators. A subclass says what the model puts out, see ``outputs``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.backend import Loss, UpdateResult
from mindrlhf_grpo.batching import micro_batches
from mindrlhf_grpo.config import TrainConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.types import Batch
from mindrlhf_grpo.update_sums import clip_scale, step_sums, trained_rows

from . import hf, xp
from .attention import attending
from .comm import SingleProcess, TorchRanks
from .fingerprint import fingerprint
from .layout_choice import PackedModel
from .layouts import ModelInput
from .optim import AdamW, gradient_norm


class TrainedModel(ABC):
    """Implements what ``backend.TrainedModel`` asks; ``model`` is the Hugging Face model, wrapped by peft for LoRA."""

    model: Any
    layout: str
    layout_reason: str
    trainable: dict[str, Tensor]
    optimizer: AdamW

    def __init__(self, train: TrainConfig, device: torch.device, comm: SingleProcess | TorchRanks) -> None:
        self.train, self.device, self.comm = train, device, comm

    def take_weights(self, model: Any) -> None:
        """Train the weights of a model that require a gradient."""
        self.model = model
        self.trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizer = AdamW(self.trainable.items(), betas=self.train.betas, weight_decay=self.train.weight_decay)

    @property
    @abstractmethod
    def packed(self) -> PackedModel:
        """The model and the layout of its input."""

    @abstractmethod
    def outputs(
        self, inputs: ModelInput, batch: Batch, tensors: dict[str, Tensor], loss: Loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the loss is given ``[N, T]``, and further sums of the micro-batch; may add tensors that the loss asks for."""

    @abstractmethod
    def empty_sums(self) -> dict[str, float]:
        """The sums of a step without rows."""

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """One AdamW step on the summed gradient; every rank calls it, also without rows.

        Raises:
            RunFailed: the gradient is not finite; the weights are unchanged.
        """
        parts = [self.backward_all(each, its_loss) for each, its_loss in [(batch, loss), *also]]
        self.comm.sum_gradients(self.trainable.values())
        norm = gradient_norm(self.trainable.values())
        if not math.isfinite(norm):
            self.drop_gradients()
            raise RunFailed(f"the gradient norm is {norm}: the update was not made")
        self.optimizer.step(learning_rate=learning_rate, gradient_scale=clip_scale(norm, self.train.max_grad_norm))
        total, (sums, *others) = step_sums(self.comm.gather_objects(parts), self.empty_sums())
        return UpdateResult(loss=total, grad_norm=norm, sums=sums, also=tuple(others))

    def backward_all(self, batch: Batch, loss: Loss) -> list[dict[str, float]]:
        """Add the gradient of a batch; returns the sums of each micro-batch."""
        trained = batch.take(trained_rows(batch))
        return [self.backward(trained.take(rows), loss) for rows in self.micro_batches(trained)]

    def backward(self, batch: Batch, loss: Loss) -> dict[str, float]:
        """Add one micro-batch's gradient; returns its loss and metric sums."""
        inputs = self.packed.input(batch)
        tensors = {name: self.tensor(array) for name, array in batch.loss_tensors().items()}
        with attending(inputs.attention):
            outputs, further = self.outputs(inputs, batch, tensors, loss)
            value, metrics = loss(xp, outputs, tensors)
            value.backward()
        sums = {"loss": value, "tokens": tensors["mask"].sum(), **further, **metrics}
        return {name: float(number.detach()) for name, number in sums.items()}

    def fingerprint(self) -> str:
        """Digest of the weights by Hugging Face name, adapters merged."""
        return fingerprint(hf.hf_tensors(self.packed.model))

    def save_state(self, folder: Path) -> None:
        """Write the optimizer."""
        self.optimizer.save(folder)

    def micro_batches(self, batch: Batch) -> list[NDArray[np.int64]]:
        """Rows of every micro-batch; none for an empty batch."""
        if not len(batch):
            return []
        return micro_batches(batch, self.train.tokens_per_micro_batch, shared=self.layout == "shared")

    def drop_gradients(self) -> None:
        for weight in self.trainable.values():
            weight.grad = None

    def tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
