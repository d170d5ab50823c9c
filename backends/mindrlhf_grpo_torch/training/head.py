"""The output head: from hidden states to log-probs of given tokens, a chunk of positions at a time.

The logits of a batch never exist at once: those of each chunk are computed in float32, reduced, dropped, and computed
again in the backward pass. Two forms with equal results: ``LinearHead`` for a plain output projection, ``ModelHead``
through the model's own code for all others (soft-capped or scaled logits, LoRA on the output projection).
Legend: R positions, C positions of a chunk, V vocabulary, E hidden size.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..comm import Group
from ..models.tensor_slices import VocabularySlice

CHUNK = 256  # positions whose logits exist at once

EntropyUse = Literal["none", "metric", "loss"]
"""Entropies are not computed, computed without gradient, or computed with it."""


class Head(Protocol):
    """Log-probs of targets from hidden states."""

    def __call__(
        self, hidden: Tensor, targets: Tensor, *, temperature: float, entropy: EntropyUse
    ) -> tuple[Tensor, Tensor | None]:
        """``[R, E]``, ``[R]`` -> log-probs ``[R]`` float32 and, where asked, entropies ``[R]``."""
        ...


class LinearHead:
    """Log-probs for an output projection that is one matrix, perhaps with a bias."""

    def __init__(self, projection: nn.Linear) -> None:
        self.projection = projection
        self.held: VocabularySlice | None = getattr(projection, "vocabulary_slice", None)

    def __call__(
        self, hidden: Tensor, targets: Tensor, *, temperature: float, entropy: EntropyUse
    ) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.projection.weight, self.projection.bias
        logps, entropies = LinearLogProbs.apply(hidden, weight, bias, targets, temperature, entropy, self.held)
        return logps, None if entropy == "none" else entropies


class LinearLogProbs(torch.autograd.Function):
    """log softmax((hidden @ weight.T + bias) / temperature) at the targets; saves one or two numbers per position.

    Where ranks hold slices of the vocabulary, each reduces its own logits; one gather of three numbers per position joins
    them, and the gradient of the hidden states is summed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy: EntropyUse,
        held: VocabularySlice | None,
    ) -> tuple[Tensor, Tensor]:
        places, others = (targets, None) if held is None else held.local(targets)
        lse = hidden.new_empty(len(targets), dtype=torch.float32)
        logps, entropies = torch.empty_like(lse), torch.zeros_like(lse)
        for chunk in chunks(len(targets)):
            logits = scaled_logits(hidden[chunk], weight, bias, temperature)
            lse[chunk], logps[chunk], spread = reduce_logits(logits, places[chunk], entropy=entropy != "none")
            if entropy != "none":
                entropies[chunk] = spread
        if held is not None and others is not None:
            lse, entropies = join_slices(lse, logps.masked_fill_(others, 0.0), entropies, held.group)
        logps -= lse
        trained = entropy == "loss"
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropies if trained else None)
        ctx.temperature, ctx.held = temperature, held
        if not trained:
            ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, spread: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, entropies = ctx.saved_tensors
        places, own = (targets, None) if ctx.held is None else ctx.held.local(targets)
        own = None if own is None else (~own).float()
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if need_hidden else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        for chunk in chunks(len(targets)):
            logits = scaled_logits(hidden[chunk], weight, bias, ctx.temperature)
            hit = None if own is None else own[chunk]
            if entropies is None:
                slope = logit_gradient(logits, places[chunk], lse[chunk], gradient[chunk] / ctx.temperature, hit)
            else:
                both = torch.stack([gradient[chunk], spread[chunk]]) / ctx.temperature
                slope = logit_gradient_of_both(logits, places[chunk], lse[chunk], entropies[chunk], both, hit)
            if to_bias is not None:
                to_bias += slope.sum(0)
            slope = slope.to(weight.dtype)
            if to_hidden is not None:
                torch.mm(slope, weight, out=to_hidden[chunk])
            if to_weight is not None:
                accumulate(to_weight, slope, hidden[chunk])
        if to_hidden is not None and ctx.held is not None:
            to_hidden = ctx.held.group.sum(to_hidden)
        return to_hidden, cast(to_weight, weight), cast(to_bias, bias), None, None, None, None


def scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Float32 logits ``[C, V]`` of one chunk, divided by the temperature."""
    logits = F.linear(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def reduce_logits(logits: Tensor, targets: Tensor, *, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp, target logit and entropy, each ``[C]``; overwrites the logits."""
    picked = logits.gather(1, targets[:, None])[:, 0]
    top = logits.amax(1, keepdim=True)
    shifted = logits.sub_(top)
    weights = shifted.exp() if entropy else shifted.exp_()
    total = weights.sum(1)
    log_total = total.log()
    spread = log_total - torch.linalg.vecdot(weights, shifted) / total if entropy else log_total
    return top[:, 0] + log_total, picked, spread


def join_slices(lse: Tensor, picked: Tensor, entropy: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and entropy over the whole vocabulary ``[R]``, from those of each rank's part of it.

    The entropy of a whole is its log-sum-exp minus the mean logit, which is a mean of the parts' by their mass. ``picked``
    becomes the target's logit, which one of the ranks has; the others pass 0.
    """
    parts = torch.stack(group.gather(torch.stack([lse, picked, lse - entropy])))  # [ranks, 3, R]
    picked.copy_(parts[:, 1].sum(0))
    whole = torch.logsumexp(parts[:, 0], dim=0)
    mean_logit = (torch.exp(parts[:, 0] - whole) * parts[:, 2]).sum(0)
    return whole, whole - mean_logit


def logit_gradient(logits: Tensor, targets: Tensor, lse: Tensor, gradient: Tensor, hit: Tensor | None = None) -> Tensor:
    """gradient * (one-hot - softmax) ``[C, V]``; overwrites the logits.

    Args:
        hit: 1 where the target is among these logits, 0 where another rank has it; None: it always is.
    """
    slope = logits.sub_(lse[:, None]).exp_().mul_(-gradient[:, None])
    slope[torch.arange(len(targets), device=targets.device), targets] += gradient if hit is None else gradient * hit
    return slope


def logit_gradient_of_both(
    logits: Tensor, targets: Tensor, lse: Tensor, entropy: Tensor, gradient: Tensor, hit: Tensor | None = None
) -> Tensor:
    """Gradient through log-probs and entropies H: dH/dz_j = -p_j (log p_j + H). ``gradient`` ``[2, C]`` -> ``[C, V]``."""
    of_logp, of_entropy = gradient[..., None]
    logps = logits.sub_(lse[:, None])
    probs = logps.exp()
    slope = logps.add_(entropy[:, None]).mul_(of_entropy).add_(of_logp).mul_(probs).neg_()
    at_targets = gradient[0] if hit is None else gradient[0] * hit
    slope[torch.arange(len(targets), device=targets.device), targets] += at_targets
    return slope


def accumulate(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """total += slope.T @ hidden, summed over chunks in float32."""
    if slope.dtype == total.dtype:
        total.addmm_(slope.t(), hidden)
    else:
        total += torch.mm(slope.t(), hidden)


def cast(total: Tensor | None, like: Tensor | None) -> Tensor | None:
    return None if total is None or like is None else total.to(like.dtype)


def chunks(positions: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, positions)) for start in range(0, positions, CHUNK)]


class ModelHead:
    """Log-probs through the model's own code from the last hidden state to logits, recomputed in the backward pass."""

    def __init__(self, causal_lm: nn.Module, base: nn.Module) -> None:
        self.causal_lm, self.base = causal_lm, base

    def __call__(
        self, hidden: Tensor, targets: Tensor, *, temperature: float, entropy: EntropyUse
    ) -> tuple[Tensor, Tensor | None]:
        parts = [
            checkpoint(self.chunk, hidden[chunk], targets[chunk], temperature, entropy, use_reentrant=False)
            for chunk in chunks(len(targets))
        ]
        logps = torch.cat([part[0] for part in parts])
        return logps, torch.cat([part[1] for part in parts]) if entropy != "none" else None

    def chunk(
        self, hidden: Tensor, targets: Tensor, temperature: float, entropy: EntropyUse
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies ``[C]`` of one chunk."""
        logps = torch.log_softmax(self.logits(hidden).float() / temperature, dim=-1)
        spread = None
        if entropy != "none":
            with torch.set_grad_enabled(entropy == "loss" and torch.is_grad_enabled()):
                spread = -(logps.exp() * logps).sum(-1)
        return logps.gather(1, targets[:, None])[:, 0], spread

    def logits(self, hidden: Tensor) -> Tensor:
        """``[C, E]`` -> ``[C, V]``: the model's forward with these hidden states in place of its body's output."""

        def body(*_: Any, **__: Any) -> BodyOutput:
            return BodyOutput((hidden[None],))

        places = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        self.base.forward = body
        try:
            return self.causal_lm(input_ids=places, use_cache=False).logits[0]
        finally:
            del self.base.forward


class BodyOutput(tuple[Tensor, ...]):
    """The output of a model's body, reduced to the last hidden state."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None
