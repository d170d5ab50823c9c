"""The body of a Hugging Face model and the layout of its input, chosen once by a probe.

``shared`` (a prompt computed once) is used where it gives the results of ``plain`` for a tiny random group;
``layout_reason`` records the choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.types import Batch

from ..models.hf import causal_lm_of
from ..models.tensor_slices import TensorSlices
from ..models.vision import language_part, vision_of
from .attention import NAME, attending, register
from .layouts import LAYOUTS, ModelInput

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
Layout = Literal["shared", "plain"]


class PackedModel(ABC):
    """A model that reads batches in the best layout it supports; a subclass defines its outputs.

    Attributes:
        unwrapped: the Hugging Face model without its peft wrapper; ``body`` is its part below the head.
        slices: how it has been cut over tensor-parallel ranks, None where it is whole.
        entry: of a sharded model, the module through which functions of its weights run.
    """

    tolerance: float  # of ``deviation`` between the layouts
    layout: Layout
    layout_reason: str

    def __init__(
        self,
        model: nn.Module,
        read_at: ReadAt,
        slices: TensorSlices | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model, self.read_at, self.slices = model, read_at, slices
        self.unwrapped: Any = causal_lm_of(model)
        self.body: Any = getattr(self.unwrapped, self.unwrapped.base_model_prefix)
        self.device = next(model.parameters()).device if device is None else device
        self.vision, self.language = vision_of(self.unwrapped), language_part(self.unwrapped)
        self.model_attention: str = self.language.config._attn_implementation
        self.probe = probe_batch(self.unwrapped.config.get_text_config().vocab_size)
        self.layout = "plain"
        self.entry: nn.Module | None = None

    @abstractmethod
    def outputs(self, inputs: ModelInput) -> Tensor:
        """The outputs ``[N, T]``, with gradient."""

    @abstractmethod
    def probe_outputs(self) -> Tensor:
        """The values on which both layouts must agree, for the probe group in the current layout."""

    @abstractmethod
    def deviation(self, outputs: Tensor, truth: Tensor) -> float:
        """The distance of outputs from the true ones; infinite if anything is not finite."""

    def input(self, batch: Batch) -> ModelInput:
        """The batch as model input in the chosen layout.

        Raises:
            BackendError: prompts with images, and a model that reads text only.
        """
        if self.vision is None and any(batch.features):
            raise BackendError(
                f"{type(self.unwrapped).__name__} reads text only, but prompts have images (data.images)"
            )
        return LAYOUTS[self.layout](batch, self.device, self.read_at, self.vision)

    def with_weights(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that reads the model's weights; sharded weights are gathered for the call."""
        return function(*arguments) if self.entry is None else self.entry(function, *arguments)

    def hidden(self, inputs: ModelInput) -> Tensor:
        """The last hidden states ``[R, E]`` at the predictors.

        With recomputed activations, ``attending(inputs.attention)`` must be held until backward is done.
        """
        if self.vision is not None and inputs.images is not None:
            tokens = {"inputs_embeds": self.vision.embed(inputs.ids, inputs.images)}
        elif self.vision is not None and self.entry is not None:
            tokens = {"inputs_embeds": self.vision.embed_text(inputs.ids)}
        else:
            tokens = {"input_ids": inputs.ids}
        with attending(inputs.attention):
            output = self.body(**tokens, position_ids=inputs.positions, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states.flatten(0, 1).index_select(0, inputs.predictors)

    def choose_layout(self, requested: str) -> tuple[Layout, str]:
        """Choose shared where the probe shows it equal to plain; return the reason too.

        Raises:
            BackendError: ``requested`` is shared and the model cannot.
        """
        if requested == "plain":
            return "plain", "asked for"
        obstacle, gap = self.try_shared()
        if obstacle is None:
            return "shared", f"equal to plain on a probe: {self.probed} differ by {gap:.1e}"
        self.language.set_attn_implementation(self.model_attention)
        if requested == "shared":
            raise BackendError(
                f"model.layout=shared is not possible for {type(self.unwrapped).__name__}: {obstacle}; accepted: auto, plain"
            )
        return "plain", f"shared is not possible: {obstacle}"

    probed = "log-probs"  # the name of the values that the probe compares

    def try_shared(self) -> tuple[str | None, float]:
        """The obstacle to the shared layout, or None, and its distance from plain."""
        kinds = set(getattr(self.unwrapped.config.get_text_config(), "layer_types", None) or ()) - KNOWN_LAYERS
        if kinds:
            return f"it has {', '.join(sorted(kinds))} layers", 0.0
        truth = self.probe_outputs()
        register()
        self.language.set_attn_implementation(NAME)
        if self.language.config._attn_implementation != NAME:
            return "it does not use transformers' attention interface", 0.0
        self.layout = "shared"
        try:
            gap = self.deviation(self.probe_outputs(), truth)
        except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}", 0.0
        finally:
            self.layout = "plain"
        return (None if gap <= self.tolerance else f"{self.probed} differ from plain by {gap:.1e}"), gap


def unpack(values: Tensor, inputs: ModelInput) -> Tensor:
    """``[R]`` into ``[N, T]``, zeros elsewhere."""
    rows, columns = inputs.shape
    places = (inputs.places // columns, inputs.places % columns)
    return values.new_zeros((rows, columns)).index_put(places, values)  # no view: FSDP puts hooks on outputs


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


def recompute_activations(model: nn.Module) -> None:
    """Recompute every decoder layer in the backward pass, dropout still off.

    Raises:
        BackendError: the model's layers do not support it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BackendError(
            f"model.recompute=true is not possible for {type(model).__name__}: its layers cannot be recomputed"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        layer.training = True  # for this module alone: transformers recomputes in training mode only
        for name, value in list(vars(layer).items()):
            if "drop" in name and isinstance(value, float):
                setattr(layer, name, 0.0)
