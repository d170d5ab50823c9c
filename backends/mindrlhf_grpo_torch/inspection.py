"""A view inside a policy: its weights, the log-probs after each layer and its gradients, by Hugging Face name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.backend import Loss, Policy
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.types import Batch

from .models import hf
from .training.attention import attending
from .training.layout_choice import unpack
from .training.policy import TorchPolicy

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")  # what model families call it


class TorchInspection:
    """Implements ``backend.Inspection``.

    Raises:
        BackendError: a policy of another backend, or a model without a final norm of a known name.
    """

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, TorchPolicy):
            raise BackendError(f"the torch backend inspects its own policies, not {type(policy).__name__}")
        self.policy, self.scorer = policy, policy.scorer
        body = getattr(self.scorer.body, "language_model", self.scorer.body)
        norms = [getattr(body, name) for name in FINAL_NORMS if hasattr(body, name)]
        if not norms:
            raise BackendError(f"{type(body).__name__} has no final norm called {', '.join(FINAL_NORMS)}")
        self.final_norm: Any = norms[0]

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Every weight in float32, tied ones once; adapters apart from the weights they belong to."""
        causal_lm = hf.causal_lm_of(self.policy.model)
        tensors = {name: weight.detach() for name, weight in causal_lm.named_parameters()}
        for name, buffer in causal_lm.named_buffers():
            owner, _, own_name = name.rpartition(".")
            if own_name not in causal_lm.get_submodule(owner)._non_persistent_buffers_set:
                tensors[name] = buffer
        return self.as_stored(tensors)

    @torch.no_grad()
    def layer_logps(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probs ``[L + 1, N, T]`` of the batch's tokens after the embedding and after each layer."""
        found: NDArray[np.float32] | None = None
        for rows in self.policy.micro_batches(batch):
            for end, values in enumerate(self.ends(batch.take(rows))):
                if found is None:
                    layers = int(self.scorer.causal_lm.config.get_text_config().num_hidden_layers)
                    found = np.zeros((layers + 1, *batch.ids.shape), dtype=np.float32)
                found[end, rows, : values.shape[1]] = values.cpu().numpy()
        return np.zeros((0, *batch.ids.shape), dtype=np.float32) if found is None else found

    def ends(self, batch: Batch) -> Iterator[Tensor]:
        """Log-probs ``[n, t]`` of one micro-batch, layer end by layer end."""
        inputs = self.scorer.input(batch)
        with attending(inputs.attention):
            output = self.scorer.body(
                input_ids=inputs.ids, position_ids=inputs.positions, use_cache=False, output_hidden_states=True
            )
        *ends, last = output.hidden_states  # the last one is normed already
        for hidden in [*(self.final_norm(end) for end in ends), last]:
            rows = hidden.flatten(0, 1).index_select(0, inputs.predictors)
            logps, _ = self.scorer.head(rows, inputs.targets, temperature=batch.temperature, entropy="none")
            yield unpack(logps, inputs)

    def gradients(self, batch: Batch, loss: Loss) -> tuple[float, dict[str, NDArray[np.float32]]]:
        """Loss of this rank's rows and its gradient by trainable weight, before clipping; the policy is unchanged."""
        policy = self.policy
        value = sum(policy.backward(batch.take(rows), loss)["loss"] for rows in policy.micro_batches(batch))
        found = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in hf.causal_lm_of(policy.model).named_parameters()
            if weight.requires_grad
        }
        gradients = self.as_stored(found)
        policy.drop_gradients()
        return float(value), gradients

    def as_stored(self, tensors: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        """Return arrays by the names of a Hugging Face folder: fused experts one by one, adapters without peft's additions."""
        from transformers.core_model_loading import revert_weight_conversion

        adapters = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
        plain = {name.replace(".base_layer.", "."): t for name, t in tensors.items() if name not in adapters}
        named = revert_weight_conversion(hf.causal_lm_of(self.policy.model), plain)
        named |= {name.replace(".default.", "."): tensor for name, tensor in adapters.items()}
        return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in named.items()}
