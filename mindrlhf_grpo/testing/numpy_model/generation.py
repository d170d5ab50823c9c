"""Completions of the NumPy Llama, one token at a time, each from a full forward pass.

Order of the transformations as in Hugging Face generate: repetition penalty, minimum length, temperature, top-k,
top-p, min-p. ``mindrlhf_grpo.generation.sampling`` defines how a uniform number then chooses a token.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ...generation.sampling import choose, uniforms
from ...types import Prompt, Sampling
from .llama import Array, NumpyLlama, log_softmax


@dataclass(frozen=True, slots=True)
class Completion:
    """Tokens of one completion and their log-probs under softmax(logits / temperature)."""

    ids: list[int]
    logps: list[float]


def complete(
    model: NumpyLlama, prompt: Prompt, sample: int, sampling: Sampling, end_tokens: Collection[int]
) -> Completion:
    """One completion, until an end token or ``max_tokens``."""
    ids: list[int] = []
    logps: list[float] = []
    while len(ids) < sampling.max_tokens and not (ids and ids[-1] in end_tokens):
        sequence = np.concatenate([prompt.ids, np.asarray(ids, dtype=np.int64)]).astype(np.int64)
        logits = model.logits(model.hidden_states(sequence)[0][-1][-1:])[0]
        banned = list(end_tokens) if len(ids) < sampling.min_tokens else []
        uniform = float(uniforms(sampling.seed, prompt.uid, sample, len(ids))[0])
        token = draw(logits, sampling, seen=np.unique(sequence).tolist(), banned=banned, uniform=uniform)
        ids.append(token)
        logps.append(float(log_softmax(logits / (sampling.temperature or 1.0))[token]))
    return Completion(ids, logps)


def draw(logits: Array, sampling: Sampling, *, seen: list[int], banned: list[int], uniform: float) -> int:
    """The next token from logits ``[V]``.

    Args:
        seen: tokens of the prompt and of the completion so far, for the repetition penalty.
        banned: tokens that may not be drawn.
    """
    shaped = logits.copy()
    penalty = sampling.repetition_penalty
    shaped[seen] = np.where(shaped[seen] > 0, shaped[seen] / penalty, shaped[seen] * penalty)
    shaped[banned] = -np.inf
    if sampling.greedy:
        return int(np.argmax(shaped))
    shaped /= sampling.temperature
    if 0 < sampling.top_k < len(shaped):
        shaped[shaped < np.sort(shaped)[-sampling.top_k]] = -np.inf
    probabilities = np.exp(log_softmax(shaped))
    allowed = np.ones(len(shaped), dtype=bool)
    if sampling.top_p < 1.0:
        ranked = np.sort(probabilities)[::-1]
        needed = int((np.cumsum(ranked) - ranked < sampling.top_p).sum())
        allowed &= probabilities >= ranked[needed - 1]
    allowed &= probabilities >= sampling.min_p * probabilities.max()
    return int(choose(np.where(allowed, probabilities, 0.0)[None], np.array([uniform]))[0])
