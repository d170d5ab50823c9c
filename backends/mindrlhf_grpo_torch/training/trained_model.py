"""Weights with an optimizer, the part that policy, critic and reward model share.

Dropout is always off. Gradients are summed over batches of one step, micro-batches and ranks; the loss weights of a
batch carry the denominators. A subclass defines the model's outputs, see ``outputs``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.backend import Loss, UpdateResult
from mindrlhf_grpo.batches.online import micro_batches
from mindrlhf_grpo.batches.sums import changed_frac, clip_scale, step_sums, trained_rows
from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.config.run import TrainConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.residency import Role
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.types import Batch

from .. import xp
from ..comm import TorchRanks
from ..models import hf
from ..sync.fingerprint import fingerprint
from ..sync.swap import DeviceMemory
from .attention import attending
from .changed_weights import changed, sample
from .division import Division, Start
from .layout_choice import PackedModel
from .layouts import ModelInput
from .optim import AdamW, gradient_norm
from .parallel import Gathered, Shards, gathered, passes


class TrainedModel(ABC):
    """Implements ``backend.TrainedModel``; ``model`` is the Hugging Face model, wrapped by peft for LoRA."""

    model: Any
    layout: str
    layout_reason: str
    trainable: dict[str, Tensor]
    optimizer: AdamW

    def __init__(
        self,
        train: TrainConfig,
        device: torch.device,
        comm: SingleProcess | TorchRanks,
        parallel: ParallelConfig | None = None,
    ) -> None:
        self.train, self.device, self.comm, self.parallel = train, device, comm, parallel
        self.division = Division(parallel, device, comm)
        self.shards: Shards | None = None
        self.gathered: Gathered | None = None

    def take_weights(self, model: Any) -> None:
        """Train the weights of a model that require a gradient."""
        self.model = model
        self.trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizer = AdamW(self.trainable.items(), self.train)

    def shard(self, packed: PackedModel, start: Start | None = None) -> None:
        """Shard the weights where the run asks for it; every rank calls it, before the first step."""
        self.shards = self.division.shard(packed) if start is None else start.shards
        if self.shards is not None:
            self.take_weights(self.model)
            self.layout_reason += f"; {self.shards.description}"

    @property
    @abstractmethod
    def packed(self) -> PackedModel:
        """The model and the layout of its input."""

    @abstractmethod
    def outputs(
        self, inputs: ModelInput, batch: Batch, tensors: dict[str, Tensor], loss: Loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs for the loss ``[N, T]``, and additional sums of the micro-batch; adds tensors that the loss reads."""

    @abstractmethod
    def empty_sums(self) -> dict[str, float]:
        """The sums of a step without rows."""

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """Make one AdamW step on the summed gradient; every rank calls it, also without rows.

        Raises:
            RunFailed: the gradient is not finite; the weights are unchanged.
        """
        if self.shards is not None:
            self.shards.begin()
        parts = [self.backward_all(*batch_and_loss) for batch_and_loss in [(batch, loss), *also]]
        norm = self.sum_gradients()
        if not math.isfinite(norm):
            self.drop_gradients()
            raise RunFailed(f"the gradient norm is {norm}: the update was not made")
        before = sample(self.trainable.values())
        self.optimizer.step(learning_rate=learning_rate, gradient_scale=clip_scale(norm, self.train.max_grad_norm))
        total, (sums, *others) = step_sums(self.comm.rows.gather_objects(parts), self.empty_sums())
        moved = changed_frac(self.comm.gather_objects(changed(before, self.trainable.values())))
        return UpdateResult(loss=total, grad_norm=norm, sums=sums, also=tuple(others), changed_frac=moved)

    def backward_all(self, batch: Batch, loss: Loss) -> list[dict[str, float]]:
        """Add the gradient of a batch; returns the sums of each micro-batch."""
        trained = batch.take(trained_rows(batch))
        every = self.micro_batches(trained)
        with passes(self.shards, len(every), gradient=True):
            return [self.backward(trained.take(rows), loss) for rows in every]

    def sum_gradients(self) -> float:
        """Sum the gradients of all ranks and return their global L2 norm."""
        if self.shards is None:
            self.comm.sum_gradients(self.trainable.values())
            return gradient_norm(self.trainable.values())
        self.shards.reduce(self.trainable)
        return self.shards.norm(self.trainable)

    def backward(self, batch: Batch, loss: Loss) -> dict[str, float]:
        """Add one micro-batch's gradient; returns its loss and metric sums."""
        inputs = self.packed.input(batch)
        tensors = {name: self.tensor(array) for name, array in batch.loss_tensors().items()}
        with attending(inputs.attention):
            outputs, more_sums = self.outputs(inputs, batch, tensors, loss)
            value, metrics = loss(xp, outputs, tensors)
            value.backward()
        sums = {"loss": value, "tokens": tensors["mask"].sum(), **more_sums, **metrics}
        return {name: float(number.detach()) for name, number in sums.items()}

    def fingerprint(self) -> str:
        """Digest of the weights by Hugging Face name, adapters merged; every rank takes part where they are sharded."""
        return fingerprint(self.full_tensors())

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, tensor) of every weight, adapters merged, shards gathered one by one."""
        return hf.hf_tensors(self.packed.model) if self.shards is None else self.shards.full_tensors()

    def roles(self) -> dict[str, Role]:
        """Weights and optimizer."""
        return {
            "weights": DeviceMemory(self.held_weights, self.device),
            "optimizer": DeviceMemory(lambda: self.optimizer.named_state().values(), self.device),
        }

    def held_weights(self) -> Iterable[Tensor]:
        """All parameters, trained or not."""
        parameters: Iterable[Tensor] = self.model.parameters()
        return parameters

    def gather(self) -> None:
        """Gather what is sharded in the host memory of rank 0, which saves next; every rank calls it."""
        if self.shards is not None:
            self.gathered = gathered(self.shards, self.optimizer)

    def gathered_weights(self) -> dict[str, Tensor] | None:
        """The weights that ``gather`` gathered; None where nothing is sharded."""
        return None if self.gathered is None else self.gathered.weights

    def read_parts(self, folder: Path) -> bool:
        """Read this rank's parts of saved weights; False where all of them must be read first."""
        return self.shards is not None and not hf.is_lora(self.model) and self.shards.read_weights(folder)

    def local_parts(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's parts of full tensors by name; buffers are not sharded."""
        shards = self.shards
        return tensors if shards is None else {name: shards.local_part(name, full) for name, full in tensors.items()}

    def save_state(self, folder: Path) -> None:
        """Write the optimizer."""
        self.optimizer.save(folder, None if self.gathered is None else self.gathered.optimizer)
        self.gathered = None

    def load_optimizer(self, folder: Path) -> None:
        """Copy a saved optimizer into the live one."""
        self.optimizer.load(folder, None if self.shards is None else self.shards.read_part)

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
