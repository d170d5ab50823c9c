"""A Hugging Face causal LM as a function from completions to per-token log-probs.

The layout and the form of the output head are chosen once, by computing a tiny random group in each way and
comparing; ``layout_reason`` and ``head_reason`` record the choices.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mindrlhf_grpo.errors import BackendError

from ..models.tensor_slices import TensorSlices
from .division import Start
from .head import EntropyUse, Head, LinearHead, ModelHead
from .layout_choice import PackedModel, recompute_activations, unpack
from .layouts import ModelInput, plain_input

# Of log-probs, relative to their mean size.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05 / 8}
HEAD_TOLERANCE = 1e-4  # of log-probs from equal hidden states


class LogProbModel(PackedModel):
    """The model's body, its head and the layout of its input.

    Raises:
        BackendError: ``requested`` is shared and the model cannot, or no head gives the model's own logits.
    """

    def __init__(
        self,
        model: nn.Module,
        requested: Literal["auto", "shared", "plain"],
        *,
        recompute: bool,
        slices: TensorSlices | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__(model, "before", slices, None if start is None else start.device)
        if start is not None:
            start.fill(self)
        self.causal_lm: Any = self.unwrapped
        self.tolerance = TOLERANCE[self.causal_lm.dtype]
        self.head: Head
        self.head, self.head_reason = self.choose_head()
        self.layout, self.layout_reason = self.choose_layout(requested)
        if recompute:
            recompute_activations(self.causal_lm)
        if start is not None:
            start.end()

    def logps(self, inputs: ModelInput, *, temperature: float, entropy: EntropyUse) -> tuple[Tensor, Tensor | None]:
        """Log-probs ``[N, T]`` float32, 0 past each length, and entropies where asked."""
        logps: tuple[Tensor, Tensor | None] = self.with_weights(self._logps, inputs, temperature, entropy)
        return logps

    def values(self, inputs: ModelInput, head: nn.Module) -> Tensor:
        """Values of a value head before each token ``[N, T]`` float32, 0 past each length."""
        return unpack(head(self.hidden(inputs))[:, 0], inputs)

    def outputs(self, inputs: ModelInput) -> Tensor:
        """Log-probs."""
        return self.logps(inputs, temperature=1.0, entropy="none")[0]

    def _logps(self, inputs: ModelInput, temperature: float, entropy: EntropyUse) -> tuple[Tensor, Tensor | None]:
        logps, entropies = self.head(self.hidden(inputs), inputs.targets, temperature=temperature, entropy=entropy)
        return unpack(logps, inputs), None if entropies is None else unpack(entropies, inputs)

    @torch.no_grad()
    def probe_outputs(self) -> Tensor:
        """Log-probs of the probe group."""
        return self.logps(self.input(self.probe), temperature=1.0, entropy="none")[0]

    def deviation(self, outputs: Tensor, truth: Tensor) -> float:
        """Largest difference of log-probs over their mean size."""
        return deviation(outputs, truth)

    def choose_head(self) -> tuple[Head, str]:
        """Choose the chunked linear head if it equals the model's own, else the model's code in chunks."""
        truth = self.model_logps()
        self.head, reason = self.with_weights(self.linear_head)
        gap = deviation(self.probe_outputs(), truth)
        if gap > self.tolerance:
            raise BackendError(
                f"{type(self.causal_lm).__name__}: log-probs computed in chunks differ from its own by {gap:.1e} ({reason})"
            )
        return self.head, reason

    @torch.no_grad()
    def linear_head(self) -> tuple[Head, str]:
        """Compare both heads on large hidden states, where soft-capped or scaled logits show."""
        model_head = ModelHead(self.causal_lm, self.body)
        projection = self.causal_lm.get_output_embeddings()
        if type(projection) is not nn.Linear:
            return model_head, "the model's own head: its output projection is not a plain linear layer"
        hidden = torch.randn(4, projection.in_features, generator=torch.Generator().manual_seed(0)) * 8
        hidden = hidden.to(self.device, projection.weight.dtype)
        targets, linear = torch.arange(4, device=self.device), LinearHead(projection)
        gap = deviation(*(head(hidden, targets, temperature=1.0, entropy="none")[0] for head in (linear, model_head)))
        if gap > HEAD_TOLERANCE:
            return model_head, f"the model's own head: a linear one differs by {gap:.1e}"
        return linear, f"linear: differs from the model's own by {gap:.1e}"

    @torch.no_grad()
    def model_logps(self) -> Tensor:
        """Log-probs of the probe group from the model's own logits, with eager attention where sdpa refuses."""
        inputs = plain_input(self.probe, self.device)
        try:
            logits = self.with_weights(self.own_logits, inputs.ids)
        except ValueError:  # sdpa refuses variants that only eager attention computes (soft-capped scores)
            self.causal_lm.set_attn_implementation("eager")
            self.model_attention = "eager"
            logits = self.with_weights(self.own_logits, inputs.ids)
        rows = torch.log_softmax(logits.float().flatten(0, 1)[inputs.predictors], dim=-1)
        return unpack(rows.gather(1, inputs.targets[:, None])[:, 0], inputs)

    def own_logits(self, ids: Tensor) -> Tensor:
        """The model's own logits."""
        logits: Tensor = self.causal_lm(input_ids=ids, use_cache=False).logits
        return logits


def deviation(logps: Tensor, truth: Tensor) -> float:
    """Largest difference over mean size; infinite if anything is not finite."""
    gap = float((logps - truth).abs().max() / truth.abs().mean())
    return gap if np.isfinite(gap) else float("inf")
