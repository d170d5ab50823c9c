"""The forward passes of generation behind one small interface.

Legend: n running slots (``0..n-1``), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from mindrlhf_grpo.types import IntArray


class UnsupportedModel(Exception):
    """A decoder cannot serve this model; the text gives the reason."""


class Decoder(Protocol):
    """A model's forward passes over slots. The state of a prompt is opaque to the caller."""

    name: str
    inference_mode: bool  # whether it may run under torch.inference_mode

    def open(self, slots: int) -> None:
        """Prepare this many empty slots."""
        ...

    def prefill(
        self, prompts: Sequence[IntArray], features: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[Any], Tensor]:
        """Each prompt's state, and the logits ``[len(prompts), V]`` float32 of the token after it.

        Args:
            features: for each prompt, its inputs besides tokens (images); empty where all prompts are text.
        """
        ...

    def fork(self, prompt: Any, slot: int) -> None:
        """Start a sample of the prompt in the slot."""
        ...

    def move(self, source: int, target: int) -> None:
        """Continue the sample of one slot in another."""
        ...

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Append one token to each running slot; return the logits ``[n, V]`` float32 of the next one."""
        ...

    def weights(self) -> Mapping[str, Tensor] | None:
        """The tensors it computes with, by Hugging Face name; None where it runs the model's own modules."""
        ...

    def cache_bytes(self) -> int:
        """Bytes that keys and values of the slots take now; 0 without a cache."""
        ...

    def close(self) -> None:
        """Free the memory of the slots."""
        ...


def without_gradient(decoder: Decoder) -> AbstractContextManager[None]:
    """The gradient mode of a decoder. Not ``inference_mode(False)``: that turns gradients on."""
    return torch.inference_mode() if decoder.inference_mode else torch.no_grad()
