"""The choice of the decoder that serves a model.

In this order: ``fused`` (hand-written, Llama-shaped models), ``cached`` (any Hugging Face model that keeps a plain
key/value cache), ``recompute`` (any model: no cache, one full forward pass per token). At load, a probe compares each
decoder's logits with the model's own; a decoder that differs is passed over, and the reason is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindrlhf_grpo.types import IntArray

from ..models.hf import causal_lm_of
from .decoder import Decoder, UnsupportedModel, without_gradient
from .fused_decoder import FusedDecoder
from .hf_decoder import CachedDecoder, RecomputeDecoder

logger = logging.getLogger(__name__)

# Norm of the difference over the norm of the logits, each row centred. Rounding alone makes it about 1e-6 in
# float32 and 0.03 in bfloat16 (where the model itself is as far from its float32 logits); a wrong layer makes it 1.
PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.15 / 8}
PROBE_LENGTHS = (11, 5, 8)
PROBE_STEPS = 3
DECODERS: dict[str, Callable[[Any], Decoder]] = {
    "fused": FusedDecoder,
    "cached": CachedDecoder,
    "recompute": RecomputeDecoder,
}  # fastest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decoder that serves a model, and the reason for the choice."""

    decoder: Decoder
    reason: str


def choose_decoder(model: Any, only: str | None = None) -> Choice:
    """Choose the fastest decoder whose logits agree with the model's.

    Args:
        model: Hugging Face causal LM, perhaps wrapped by peft.
        only: name of the one decoder to try, to compare decoders.

    Raises:
        UnsupportedModel: ``only`` names one that cannot serve the model.
    """
    reasons: list[str] = []
    for name in (only,) if only else DECODERS:
        try:
            decoder = DECODERS[name](model)
            error = 0.0 if name == "recompute" else probe(decoder, model)
        except UnsupportedModel as refusal:
            if only:
                raise
            reasons.append(f"not {name}: {refusal}")
            continue
        reasons.append(f"{name}: logits within {error:.1e} of the model's" if error else name)
        choice = Choice(decoder=decoder, reason="; ".join(reasons))
        log = logger.info if name == "fused" or only else logger.warning
        log("rollout decoder %s", choice.reason)
        return choice
    raise UnsupportedModel("; ".join(reasons))


@torch.no_grad()
def probe(decoder: Decoder, model: Any) -> float:
    """Relative error of the decoder's logits on random tokens, prompts of several lengths and a few steps.

    Raises:
        UnsupportedModel: the error is above the tolerance, or the forward pass fails.
    """
    random = np.random.default_rng(0)
    width = causal_lm_of(model).get_input_embeddings().num_embeddings
    rows = [random.integers(0, width, length + PROBE_STEPS) for length in PROBE_LENGTHS]
    try:
        expected = [model(input_ids=as_ids(row, model)).logits[0].float() for row in rows]
        computed = centred(probe_logits(decoder, rows))
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError) as failure:
        raise UnsupportedModel(f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}") from failure
    truth = centred(torch.stack([logits[-PROBE_STEPS - 1 :] for logits in expected]))
    error = float((computed - truth).norm() / truth.norm())
    accepted = PROBE_TOLERANCE.get(next(model.parameters()).dtype, PROBE_TOLERANCE[torch.bfloat16])
    if not error <= accepted:
        raise UnsupportedModel(f"its logits differ from the model's by {error:.1e} (accepted: {accepted:.0e})")
    return error


def centred(logits: Tensor) -> Tensor:
    """The logits minus each row's mean, which no probability depends on."""
    return logits - logits.mean(-1, keepdim=True)


def probe_logits(decoder: Decoder, rows: Sequence[IntArray]) -> Tensor:
    """Logits ``[rows, PROBE_STEPS + 1, V]`` at the last places of each row, computed step by step."""
    with without_gradient(decoder):
        decoder.open(len(rows))
        prompts, first = decoder.prefill([row[:-PROBE_STEPS] for row in rows])
        for slot, prompt in enumerate(prompts):
            decoder.fork(prompt, slot)
        steps = [first]
        for step in range(-PROBE_STEPS, 0):
            steps.append(decoder.decode([int(row[step]) for row in rows], [len(row) + step for row in rows]))
        decoder.close()
        return torch.stack(steps, dim=1)


def as_ids(row: IntArray, model: Any) -> Tensor:
    """``[1, L]`` on the model's device."""
    return torch.as_tensor(row, dtype=torch.long, device=next(model.parameters()).device)[None]
