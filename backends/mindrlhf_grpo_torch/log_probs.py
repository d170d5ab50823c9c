"""A Hugging Face causal LM as a function from completions to per-token log-probs.

The layout and the form of the output head are chosen once, by computing a tiny random group in every way and
comparing; what is chosen and why is kept in ``layout_reason`` and ``head_reason``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.types import Batch

from .attention import NAME, attending, register
from .head import Head, LinearHead, ModelHead
from .hf import causal_lm_of
from .layouts import ModelInput, plain_input, shared_input

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of log-probs, relative to their mean size
HEAD_TOLERANCE = 1e-4  # of log-probs from equal hidden states


class LogProbModel:
    """The model's body, its head and the layout of its input.

    Raises:
        BackendError: ``requested`` is shared and the model cannot, or no head gives the model's own logits.
    """

    def __init__(self, model: nn.Module, requested: Literal["auto", "shared", "plain"], *, recompute: bool) -> None:
        self.model = model
        self.causal_lm: Any = causal_lm_of(model)
        self.body: Any = getattr(self.causal_lm, self.causal_lm.base_model_prefix)
        self.device = next(model.parameters()).device
        self.tolerance = TOLERANCE[self.causal_lm.dtype]
        self.own_attention: str = self.causal_lm.config._attn_implementation
        self.probe = probe_batch(self.causal_lm.config.get_text_config().vocab_size)
        self.layout: Literal["shared", "plain"] = "plain"
        self.head: Head
        self.head, self.head_reason = self.choose_head()
        self.layout, self.layout_reason = self.choose_layout(requested)
        if recompute:
            recompute_activations(self.causal_lm)

    def input(self, batch: Batch) -> ModelInput:
        """The batch as model input in the chosen layout."""
        build = shared_input if self.layout == "shared" else plain_input
        return build(batch, self.device)

    def logps(self, inputs: ModelInput, *, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs ``[N, T]`` float32, 0 past each length, and entropies where asked.

        With recomputed activations, ``attending(inputs.attention)`` must be held until backward is done.
        """
        with attending(inputs.attention):
            output = self.body(input_ids=inputs.ids, position_ids=inputs.positions, use_cache=False)
        hidden = output.last_hidden_state.flatten(0, 1).index_select(0, inputs.predictors)
        logps, entropies = self.head(hidden, inputs.targets, temperature=temperature, entropy=entropy)
        return unpack(logps, inputs), None if entropies is None else unpack(entropies, inputs)

    @torch.no_grad()
    def probe_logps(self) -> Tensor:
        """Log-probs of the probe group in the present layout."""
        return self.logps(self.input(self.probe), temperature=1.0, entropy=False)[0]

    def choose_head(self) -> tuple[Head, str]:
        """The chunked linear head if it equals the model's own, else the model's code in chunks."""
        truth = self.own_logps()
        self.head, reason = self.linear_head()
        gap = deviation(self.probe_logps(), truth)
        if gap > self.tolerance:
            raise BackendError(
                f"{type(self.causal_lm).__name__}: log-probs computed in chunks differ from its own by {gap:.1e} ({reason})"
            )
        return self.head, reason

    @torch.no_grad()
    def linear_head(self) -> tuple[Head, str]:
        """Compare both heads on large hidden states, where soft-capped or scaled logits show."""
        own = ModelHead(self.causal_lm, self.body)
        projection = self.causal_lm.get_output_embeddings()
        if type(projection) is not nn.Linear:
            return own, "the model's own head: its output projection is not a plain linear layer"
        hidden = torch.randn(4, projection.in_features, generator=torch.Generator().manual_seed(0)) * 8
        hidden = hidden.to(self.device, projection.weight.dtype)
        targets, linear = torch.arange(4, device=self.device), LinearHead(projection)
        gap = deviation(*(head(hidden, targets, temperature=1.0, entropy=False)[0] for head in (linear, own)))
        if gap > HEAD_TOLERANCE:
            return own, f"the model's own head: a linear one differs by {gap:.1e}"
        return linear, f"linear: differs from the model's own by {gap:.1e}"

    @torch.no_grad()
    def own_logps(self) -> Tensor:
        """Log-probs of the probe group from the model's own logits; finds an attention that works."""
        inputs = plain_input(self.probe, self.device)
        try:
            logits = self.causal_lm(input_ids=inputs.ids, use_cache=False).logits
        except ValueError:  # sdpa refuses what only eager attention computes (soft-capped scores)
            self.causal_lm.set_attn_implementation("eager")
            self.own_attention = "eager"
            logits = self.causal_lm(input_ids=inputs.ids, use_cache=False).logits
        rows = torch.log_softmax(logits.float().flatten(0, 1)[inputs.predictors], dim=-1)
        return unpack(rows.gather(1, inputs.targets[:, None])[:, 0], inputs)

    def choose_layout(self, requested: str) -> tuple[Literal["shared", "plain"], str]:
        """Shared where the probe shows it equal to plain."""
        if requested == "plain":
            return "plain", "asked for"
        obstacle, gap = self.try_shared()
        if obstacle is None:
            return "shared", f"equal to plain on a probe: log-probs differ by {gap:.1e}"
        self.causal_lm.set_attn_implementation(self.own_attention)
        if requested == "shared":
            raise BackendError(
                f"model.layout=shared is not possible for {type(self.causal_lm).__name__}: {obstacle}; accepted: auto, plain"
            )
        return "plain", f"shared is not possible: {obstacle}"

    def try_shared(self) -> tuple[str | None, float]:
        """What stands against the shared layout, or None, and how far it is from plain."""
        kinds = set(getattr(self.causal_lm.config.get_text_config(), "layer_types", None) or ()) - KNOWN_LAYERS
        if kinds:
            return f"it has {', '.join(sorted(kinds))} layers", 0.0
        truth = self.probe_logps()
        register()
        self.causal_lm.set_attn_implementation(NAME)
        if self.causal_lm.config._attn_implementation != NAME:
            return "it does not use transformers' attention interface", 0.0
        self.layout = "shared"
        try:
            gap = deviation(self.probe_logps(), truth)
        except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}", 0.0
        finally:
            self.layout = "plain"
        return (None if gap <= self.tolerance else f"log-probs differ from plain by {gap:.1e}"), gap


KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def unpack(values: Tensor, inputs: ModelInput) -> Tensor:
    """``[R]`` into ``[N, T]``, zeros elsewhere."""
    rows, columns = inputs.shape
    return values.new_zeros(rows * columns).index_put((inputs.places,), values).view(rows, columns)


def deviation(logps: Tensor, truth: Tensor) -> float:
    """Largest difference over mean size; infinite if anything is not finite."""
    gap = float((logps - truth).abs().max() / truth.abs().mean())
    return gap if np.isfinite(gap) else float("inf")


def probe_batch(vocabulary: int) -> Batch:
    """Two prompts with three and two random completions of different lengths."""
    random = np.random.default_rng(0)
    lengths = np.array([4, 2, 5, 3, 1], dtype=np.int32)
    zeros = np.zeros((5, 5), dtype=np.float32)
    return Batch(
        prompts=tuple(random.integers(0, vocabulary, length).astype(np.int32) for length in (6, 3)),
        prompt_of=np.array([0, 0, 0, 1, 1], dtype=np.int32), ids=random.integers(0, vocabulary, (5, 5)).astype(np.int32),
        lengths=lengths, mask=(np.arange(5) < lengths[:, None]).astype(np.float32), weights=zeros, advantages=zeros,
    )  # fmt: skip


def recompute_activations(causal_lm: nn.Module) -> None:
    """Recompute every decoder layer in the backward pass, dropout still off.

    Raises:
        BackendError: the model's layers are not made for it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in causal_lm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BackendError(
            f"model.recompute=true is not possible for {type(causal_lm).__name__}: its layers cannot be recomputed"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        layer.training = True  # of this module alone: transformers recomputes in training mode only
        for name, value in list(vars(layer).items()):
            if "drop" in name and isinstance(value, float):
                setattr(layer, name, 0.0)
