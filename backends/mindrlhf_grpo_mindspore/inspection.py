"""A view inside a policy: its weights, the log-probs after each layer and its gradients, by Hugging Face name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.backend import Loss, Policy
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.model_files.weights import file_parts
from mindrlhf_grpo.types import Batch

from .graph import Compiled
from .models import hf
from .training.policy import MindSporePolicy
from .training.trained_model import describe_bucket, sharpness

Floats = NDArray[np.float32]


class MindSporeInspection:
    """Implements ``backend.Inspection``.

    Raises:
        BackendError: a policy of another backend.
    """

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, MindSporePolicy):
            raise BackendError(f"the mindspore backend inspects its own policies, not {type(policy).__name__}")
        self.policy = policy
        self.layer_ends = Compiled(
            "log-probs of every layer",
            policy.model().layer_ends,
            policy.log,
            bucket=lambda *tensors: describe_bucket(tensors[1:]),
        )

    def weights(self) -> dict[str, Floats]:
        """Every weight in float32, tied ones once; adapters apart from the weights they belong to."""
        return as_stored(self.policy.weights.items())

    def layer_logps(self, batch: Batch) -> Floats:
        """Log-probs ``[L + 1, N, T]`` of the batch's tokens after the embedding and after each layer."""
        logps = np.zeros((self.policy.architecture.layers + 1, *batch.ids.shape), np.float32)
        for rows in self.policy.micro_batches(batch):
            micro = batch.take(rows)
            count, width = micro.ids.shape
            values = self.layer_ends(sharpness(micro), *self.policy.input(micro)[0].tensors())
            logps[:, rows, :width] = values.asnumpy()[:, :count, :width]
        return logps

    def gradients(self, batch: Batch, loss: Loss) -> tuple[float, dict[str, Floats]]:
        """Loss of this rank's rows and its gradient by trainable weight, before clipping; the policy is unchanged."""
        parts, gradients = self.policy.backward(batch, loss)
        return sum(part["loss"] for part in parts), as_stored(zip(self.policy.trainable, gradients, strict=True))


def as_stored(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Floats]:
    """Return arrays by the names of a Hugging Face folder: stacked experts one by one."""
    return {
        part: values.reshape(-1, *shape)[number].copy()
        for name, tensor in tensors
        for values in [hf.numbers(tensor)]
        for number, (part, shape) in enumerate(file_parts(name, tuple(tensor.shape)))
    }
